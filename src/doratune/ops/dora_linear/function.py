"""DoRA on top of a base result. Derivation: README.md beside this file.

T tokens, O out_features, I in_features, R rank, K some rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from doratune.ops.dora_linear import steps
from doratune.ops.precision import full_precision


def dora_linear(
    base_result: Tensor,
    x: Tensor,
    weight: Tensor | Callable[[Tensor], Tensor],
    A_RI: Tensor,
    B_OR: Tensor,
    m_O: Tensor,
    n_O: Tensor,
    scaling: float,
    bias_O: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """``g (base_result - bias + scaling drop(x) A^T B^T) + bias`` with ``g = m / n``.

    Gradients flow to ``x``, ``A_RI``, ``B_OR``, ``m_O`` and the bias; n is a constant.

    Args:
        base_result: ``x W^T + bias``, (..., O). **Overwritten** with the returned values.
        x: Input of the layer, (..., I); any float dtype.
        weight: The frozen W, (O, I), in the dtype of ``base_result``. The gradient of x then takes the
            path through W as well, and none flows to ``base_result``: one (T, I) tensor less than
            autograd would make. Or, where W cannot be had as a tensor, a function from indices (K,)
            to those rows, (K, I), which is called only where ``|m / n|`` is tiny; the gradient then
            flows to ``base_result``.
        A_RI: ``lora_A``, (R, I).
        B_OR: ``lora_B``, (O, R).
        m_O: Magnitude, (O,), float32.
        n_O: Weight norm, (O,), float32, from `weight_norm`.
        scaling: Factor of the low-rank branch.
        bias_O: Bias of the base layer, outside the scale.
        dropout_p: Probability with which an input of the low-rank branch is zeroed, rounded to a
            multiple of 2^-16; drawn from PyTorch's default generator.

    Returns:
        (..., O) in the dtype of ``base_result``, in its memory. With ``B = 0`` and ``m = n`` it is
        ``base_result`` bit for bit.
    """
    if torch.compiler.is_compiling():
        from doratune.ops import registered

        W_OI = weight if isinstance(weight, Tensor) else None
        factors = (A_RI, B_OR, m_O, n_O, scaling, bias_O, dropout_p)
        return registered.dora_linear(base_result, x, *factors, W_OI)
    if isinstance(weight, Tensor):
        base_result = base_result.detach()
    factors = (A_RI, B_OR, m_O, n_O, scaling, bias_O, steps.round_share(dropout_p))
    return _DoraLinear.apply(base_result, x, weight, *factors)  # type: ignore[no-untyped-call]


def mag_norm_scale(m_O: Tensor, n_O: Tensor) -> Tensor:
    """``g = m / n`` in the wider dtype of the two; 1, without gradient, where n is 0."""
    zero_O = n_O == 0
    # n becomes 1 there: masking alone would leave m a gradient of 0 / 0.
    return (m_O / n_O.masked_fill(zero_O, 1)).masked_fill(zero_O, 1)


class _DoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        base_result: Tensor,
        x: Tensor,
        weight: Tensor | Callable[[Tensor], Tensor],
        A_RI: Tensor,
        B_OR: Tensor,
        m_O: Tensor,
        n_O: Tensor,
        scaling: float,
        bias_O: Tensor | None,
        dropout_p: float,
    ) -> Tensor:
        dtype = base_result.dtype
        # Writing into a detached alias instead of `mark_dirty` spares the copy that autograd makes
        # when base_result is a view, as F.linear with a bias returns for 3-D input. The alias shares
        # the version counter, so a wrong use of base_result still raises.
        y_TO = base_result.detach().view(-1, base_result.shape[-1])
        x_TI = x.reshape(-1, x.shape[-1]).to(dtype)
        with full_precision(base_result.device):
            A_cast_RI = A_RI.to(dtype)
            g_O = mag_norm_scale(m_O.float(), n_O)
            sg_O1 = (g_O * scaling).unsqueeze(1)
            gB_OR = (B_OR * sg_O1).to(dtype)
            mask = steps.backend(x_TI).draw_mask(x_TI, dropout_p) if dropout_p else None
            h_TR = steps.forward_(y_TO, x_TI, A_cast_RI, gB_OR, g_O, bias_O, mask, dropout_p)

        y = y_TO.view(base_result.shape)
        ctx.through_base = isinstance(weight, Tensor)
        ctx.rows = None if ctx.through_base else weight
        ctx.save_for_backward(
            y, h_TR, x_TI, A_cast_RI, B_OR, gB_OR, g_O, sg_O1, bias_O, mask, m_O, n_O,
            weight if ctx.through_base else None,
        )  # fmt: skip
        ctx.scaling, ctx.dropout_p = scaling, dropout_p
        ctx.x_shape, ctx.x_dtype, ctx.A_dtype = x.shape, x.dtype, A_RI.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (
            y, h_TR, x_TI, A_RI, B_OR, gB_OR, g_O, sg_O1, bias_O, mask, m_O, n_O, W_OI
        ) = ctx.saved_tensors  # fmt: skip
        base, x, _, A, B, m, _, _, bias, _ = ctx.needs_input_grad
        dy_TO = dy.reshape(-1, dy.shape[-1])
        grads = steps.backward(
            dy_TO, y.view(dy_TO.shape), h_TR, x_TI, A_RI, B_OR, gB_OR, g_O, ctx.scaling, bias_O,
            mask, ctx.dropout_p, W_OI if ctx.through_base else ctx.rows,
            steps.Needs(base, x, A, B, m), ctx.through_base,
        )  # fmt: skip
        dbase = dx = dA_RI = dB_OR = dm_O = dbias_O = None
        if grads.base_TO is not None:
            dbase = grads.base_TO.view(dy.shape)
        if grads.x_TI is not None:
            dx = grads.x_TI.view(ctx.x_shape).to(ctx.x_dtype)
        if grads.A_RI is not None:
            dA_RI = grads.A_RI.to(ctx.A_dtype)
        if grads.gB_OR is not None:
            dB_OR = (grads.gB_OR * sg_O1).to(B_OR.dtype)
        if grads.g_O is not None:
            dm_O = (grads.g_O / n_O).masked_fill_(n_O == 0, 0).to(m_O.dtype)
        if bias:
            dbias_O = steps.bias_grad(dy_TO, g_O, ctx.through_base).to(bias_O.dtype)
        return dbase, dx, None, dA_RI, dB_OR, dm_O, None, None, dbias_O, None

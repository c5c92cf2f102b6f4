"""DoRA on top of a base result, with a hand-written backward. Derivation: README.md beside this file.

T tokens, O out_features, I in_features, R rank, K rows with a small scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALL_SCALE = 1e-2
"""Below this |g| the output holds too few digits of the unscaled row, which the magnitude's gradient
needs: those rows are kept apart. None are small in ordinary training."""

ZERO_NORM = 1e-6
"""Share of the layer's largest norm below which a row counts as zero and has g = 1."""


def dora_linear(
    base_result: Tensor,
    x: Tensor,
    A_RI: Tensor,
    B_OR: Tensor,
    m_O: Tensor,
    n_O: Tensor,
    scaling: float,
    bias_O: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """``g (base_result - bias + scaling drop(x) A^T B^T) + bias`` with ``g = m / n``.

    Gradients flow to ``base_result``, ``x``, ``A_RI``, ``B_OR`` and ``m_O``; n is a constant.

    Args:
        base_result: ``x W^T + bias``, (..., O). **Overwritten** with the returned values.
        x: Input of the layer, (..., I); any float dtype.
        A_RI: ``lora_A``, (R, I).
        B_OR: ``lora_B``, (O, R).
        m_O: Magnitude, (O,), float32.
        n_O: Weight norm, (O,), float32, from `weight_norm`.
        scaling: Factor of the low-rank branch.
        bias_O: Bias of the base layer, outside the scale.
        dropout_p: Probability with which an input of the low-rank branch is zeroed; draws from
            PyTorch's default generator exactly as ``torch.nn.Dropout`` does.

    Returns:
        (..., O) in the dtype of ``base_result``, in its memory. With ``B = 0`` and ``m = n`` it is
        ``base_result`` bit for bit.
    """
    arguments = (base_result, x, A_RI, B_OR, m_O, n_O, scaling, bias_O, dropout_p)
    return _DoraLinear.apply(*arguments)  # type: ignore[no-untyped-call]


def mag_norm_scale(m_O: Tensor, n_O: Tensor) -> tuple[Tensor, Tensor]:
    """``g = m / n`` in float32, and which rows of the adapted weight count as zero (g = 1 there)."""
    zero_O = n_O <= ZERO_NORM * n_O.amax() if n_O.numel() else n_O.bool()
    return torch.where(zero_O, 1.0, m_O.float() / n_O), zero_O


class _DoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        base_result: Tensor,
        x: Tensor,
        A_RI: Tensor,
        B_OR: Tensor,
        m_O: Tensor,
        n_O: Tensor,
        scaling: float,
        bias_O: Tensor | None,
        dropout_p: float,
    ) -> Tensor:
        dtype = base_result.dtype
        with torch.autocast(base_result.device.type, enabled=False):
            # Writing into a detached alias instead of `mark_dirty` spares the copy that autograd
            # makes when base_result is a view, as F.linear with a bias returns for 3-D input. The
            # alias shares the version counter, so a wrong use of base_result still raises.
            y_TO = base_result.detach().view(-1, base_result.shape[-1])
            x_TI = x.reshape(-1, x.shape[-1]).to(dtype)
            dropped_TI, keep_TI = (
                torch.native_dropout(x_TI, dropout_p, True) if dropout_p else (x_TI, None)
            )
            A_RI_cast = A_RI.to(dtype)
            g_O, zero_O = mag_norm_scale(m_O, n_O)
            h_TR = dropped_TI @ A_RI_cast.T
            gB_OR = (scaling * g_O[:, None] * B_OR.float()).to(dtype)

            small_K = ((g_O.abs() < SMALL_SCALE) & ~zero_O).nonzero().squeeze(1)
            unscaled_TK = None
            if small_K.numel():
                unscaled_TK = y_TO[:, small_K].float()
                if bias_O is not None:
                    unscaled_TK -= bias_O[small_K].float()
                unscaled_TK.addmm_(h_TR.float(), B_OR[small_K].float().T, alpha=scaling)

            y_TO.mul_(g_O)
            if bias_O is not None:
                # g (base - bias) + bias, arranged so that g = 1 changes no bit.
                y_TO.add_((1 - g_O) * bias_O.float())
            y_TO.addmm_(h_TR, gB_OR.T)

        y = y_TO.view(base_result.shape)
        ctx.save_for_backward(
            x_TI,
            keep_TI,
            A_RI_cast,
            gB_OR,
            h_TR,
            y,
            m_O,
            n_O,
            g_O,
            zero_O,
            bias_O,
            small_K,
            unscaled_TK,
        )
        ctx.scaling, ctx.dropout_p = scaling, dropout_p
        ctx.x_shape, ctx.x_dtype = x.shape, x.dtype
        ctx.A_dtype, ctx.B_dtype, ctx.m_dtype = A_RI.dtype, B_OR.dtype, m_O.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (
            x_TI, keep_TI, A_RI, gB_OR, h_TR, y, m_O, n_O, g_O, zero_O, bias_O, small_K, unscaled_TK
        ) = ctx.saved_tensors  # fmt: skip
        needs_base, needs_x, needs_A, needs_B, needs_m = ctx.needs_input_grad[:5]
        dy_TO = dy.reshape(-1, dy.shape[-1])
        dbase = dx = dA_RI = dB_OR = dm_O = None

        if needs_base:
            dbase = torch.mul(dy_TO, g_O, out=torch.empty_like(dy_TO)).view(dy.shape)
        if needs_x or needs_A:
            dh_TR = dy_TO @ gB_OR
        if needs_A:
            dropped_TI = x_TI if keep_TI is None else x_TI * keep_TI
            dA_RI = (dh_TR.T @ dropped_TI).to(ctx.A_dtype)
            if ctx.dropout_p:
                dA_RI /= 1 - ctx.dropout_p
        if needs_x:
            dx = dh_TR @ A_RI
            if keep_TI is not None:
                dx.mul_(keep_TI).mul_(1 / (1 - ctx.dropout_p))
            dx = dx.view(ctx.x_shape).to(ctx.x_dtype)
        if needs_B:
            dB_OR = (ctx.scaling * g_O[:, None] * (dy_TO.T @ h_TR).float()).to(ctx.B_dtype)
        if needs_m:
            # The unscaled row is (y - bias) / g, so dL/dm = sum dy (y - bias) / m, and the base
            # product need not be kept. `einsum('to,to->o')` in bf16 takes 100 ms where this
            # takes 6 (1024 x 1536, two CPU cores).
            y_TO = y.view(dy_TO.shape)
            dg_O = (dy_TO * y_TO).sum(0, dtype=torch.float32)
            if bias_O is not None:
                dg_O -= bias_O.float() * dy_TO.sum(0, dtype=torch.float32)
            dm_O = dg_O / m_O.float()
            if unscaled_TK is not None:
                dm_O[small_K] = (dy_TO[:, small_K].float() * unscaled_TK).sum(0) / n_O[small_K]
            dm_O = dm_O.masked_fill_(zero_O, 0).to(ctx.m_dtype)
        return dbase, dx, dA_RI, dB_OR, dm_O, None, None, None, None

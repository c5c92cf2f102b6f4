"""The ops as ``torch.library`` custom ops, for ``torch.compile``: opaque to it, so no graph break.

`dora_linear` and `weight_norm` here take tensors only and change none of them. What the compiler fuses
as well by itself (casts, m / n) stays plain PyTorch, and so does the one random part, the seed of the
mask: PyTorch 2.13 merges equal calls of a custom op that draws, even if it is tagged as random, and q, k
and v would share a mask (``fx_graph_cse`` knows aten's random ops only).

T tokens, O out_features, I in_features, R rank, K some rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from doratune.ops import launch
from doratune.ops.dora_linear import eager, mag_norm_scale, steps
from doratune.ops.precision import full_precision
from doratune.ops.weight_norm import eager as norm

NUM_DIFFERENTIABLE = 6
"""Inputs of ``doratune::dora_linear`` that have gradients: base, x, A, B, g, bias; they come first."""


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
    W_OI: Tensor | None = None,
) -> Tensor:
    """`doratune.ops.dora_linear`, except that ``base_result`` is left as it is.

    Args:
        base_result: ``x W^T + bias``, (..., O).
        x: Input of the layer, (..., I).
        A_RI: ``lora_A``.
        B_OR: ``lora_B``.
        m_O: Magnitude, float32.
        n_O: Weight norm, float32; a constant.
        scaling: Factor of the low-rank branch.
        bias_O: Bias of the base layer.
        dropout_p: As in `doratune.ops.dora_linear`; other masks, from the same generator.
        W_OI: The frozen W where it is dense and has the dtype of ``base_result``. The gradient of x then
            takes the path through W as well, and none flows to ``base_result``. Without it the gradient
            of a magnitude near 0 has the digits that the output left, and at exactly 0 it is 0.

    Returns:
        (..., O) in the dtype of ``base_result``.
    """
    dtype = base_result.dtype
    if W_OI is not None:
        base_result = base_result.detach()
    g_O = mag_norm_scale(m_O.float(), n_O.detach())
    dropout_p = steps.round_share(dropout_p)
    seed = None
    if dropout_p:
        seed = torch.randint(0, (1 << 63) - 1, (), dtype=torch.int64, device=x.device)
    y_TO, _ = dora_linear_op(
        base_result.reshape(-1, base_result.shape[-1]),
        x.reshape(-1, x.shape[-1]).to(dtype),
        A_RI.to(dtype),
        B_OR,
        g_O,
        bias_O,
        seed,
        W_OI,
        scaling,
        dropout_p,
    )
    return y_TO.view(base_result.shape)


def weight_norm(
    norm_squared_O: Tensor, W_OI: Tensor, A_RI: Tensor, B_OR: Tensor, scaling: float
) -> Tensor:
    """`doratune.ops.weight_norm` of a dense weight; a constant for autograd.

    Args:
        norm_squared_O: ``‖W‖²`` of every output feature, float32.
        W_OI: The base weight.
        A_RI: ``lora_A``.
        B_OR: ``lora_B``.
        scaling: Factor of the update.

    Returns:
        (O,), float32.
    """
    return weight_norm_op(norm_squared_O, W_OI.detach(), A_RI.detach(), B_OR.detach(), scaling)


@torch.library.custom_op("doratune::dora_linear", mutates_args=())
def dora_linear_op(
    base_TO: Tensor,
    x_TI: Tensor,
    A_RI: Tensor,
    B_OR: Tensor,
    g_O: Tensor,
    bias_O: Tensor | None,
    seed: Tensor | None,
    W_OI: Tensor | None,
    scaling: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """``g (base - bias + scaling h B^T) + bias`` and ``h = drop(x) A^T``; base, x and A of one dtype."""
    with full_precision(base_TO.device):
        y_TO = base_TO.clone(memory_format=torch.contiguous_format)
        gB_OR = _scaled(B_OR, g_O, scaling, y_TO.dtype)
        mask = _mask(x_TI, seed, dropout_p)
        h_TR = steps.forward_(y_TO, x_TI, A_RI, gB_OR, g_O, bias_O, mask, dropout_p)
    return y_TO, h_TR


@dora_linear_op.register_fake
def _(base_TO: Tensor, x_TI: Tensor, A_RI: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return base_TO.new_empty(base_TO.shape), base_TO.new_empty(x_TI.shape[0], A_RI.shape[0])


@torch.library.custom_op("doratune::dora_linear_backward", mutates_args=())
def dora_linear_backward_op(
    dy_TO: Tensor,
    y_TO: Tensor,
    h_TR: Tensor,
    x_TI: Tensor,
    A_RI: Tensor,
    B_OR: Tensor,
    g_O: Tensor,
    bias_O: Tensor | None,
    seed: Tensor | None,
    W_OI: Tensor | None,
    scaling: float,
    dropout_p: float,
    needs: list[bool],
) -> list[Tensor]:
    """Gradients of those of base, x, A, B, g and bias that somebody ``needs``, in this order."""
    with full_precision(dy_TO.device):
        gB_OR = _scaled(B_OR, g_O, scaling, dy_TO.dtype)
        mask = _mask(x_TI, seed, dropout_p)
        found = steps.backward(
            dy_TO, y_TO, h_TR, x_TI, A_RI, B_OR, gB_OR, g_O, scaling, bias_O, mask, dropout_p,
            W_OI, steps.Needs(*needs[:5]), through_base=W_OI is not None,
        )  # fmt: skip
        dB_OR = None
        if found.gB_OR is not None:
            dB_OR = _scaled(found.gB_OR, g_O, scaling, B_OR.dtype)
        dbias_O = None
        if bias_O is not None and needs[5]:
            dbias_O = steps.bias_grad(dy_TO, g_O, W_OI is not None).to(bias_O.dtype)
    grads = (found.base_TO, found.x_TI, found.A_RI, dB_OR, found.g_O, dbias_O)
    return [grad for grad in grads if grad is not None]


@dora_linear_backward_op.register_fake
def _(dy_TO: Tensor, y_TO: Tensor, h_TR: Tensor, *others: Any) -> list[Tensor]:
    x_TI, A_RI, B_OR, g_O, bias_O, *_, needs = others
    of = zip((y_TO, x_TI, A_RI, B_OR, g_O, bias_O), needs, strict=True)
    return [tensor.new_empty(tensor.shape) for tensor, need in of if need]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    _, *tensors, ctx.scaling, ctx.dropout_p = inputs
    ctx.save_for_backward(*output, *tensors)


def _backward(ctx: Any, dy_TO: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad)
    numbers = (ctx.scaling, ctx.dropout_p, needs[:NUM_DIFFERENTIABLE])
    found = iter(dora_linear_backward_op(dy_TO, *ctx.saved_tensors, *numbers))
    return tuple(
        next(found) if need and place < NUM_DIFFERENTIABLE else None
        for place, need in enumerate(needs)
    )


dora_linear_op.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("doratune::weight_norm", mutates_args=())
def weight_norm_op(
    norm_squared_O: Tensor, W_OI: Tensor, A_RI: Tensor, B_OR: Tensor, scaling: float
) -> Tensor:
    """Norm of every row of ``W + scaling B A``, float32."""
    base = norm.BaseWeight(
        norm_squared_O, lambda A: W_OI @ A.to(W_OI.dtype).T, lambda index_K: W_OI[index_K]
    )
    return norm.weight_norm(base, A_RI, B_OR, scaling, W_OI)


@weight_norm_op.register_fake
def _(norm_squared_O: Tensor, W_OI: Tensor, A_RI: Tensor, B_OR: Tensor, scaling: float) -> Tensor:
    return norm_squared_O.new_empty(norm_squared_O.shape)


def _scaled(B_OR: Tensor, g_O: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    return (B_OR * (scaling * g_O)[:, None]).to(dtype)


def _mask(x_TI: Tensor, seed: Tensor | None, dropout_p: float) -> Tensor | None:
    """What the backend takes: on a GPU the seed itself, else a mask that depends on it alone."""
    if seed is None or launch.uses_triton(x_TI):
        return seed
    devices, generator = [], torch.default_generator
    if x_TI.is_cuda:
        devices, generator = [x_TI.device], torch.cuda.default_generators[x_TI.device.index]
    with torch.random.fork_rng(devices):
        generator.manual_seed(int(seed))
        return eager.draw_mask(x_TI, dropout_p)

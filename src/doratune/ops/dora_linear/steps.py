"""The arithmetic of `dora_linear`, forward and backward, for every backend. Derivation: README.md.

T tokens, O out_features, I in_features, R rank, K rows with a small scale.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from doratune.ops import launch
from doratune.ops.dora_linear import eager

SMALL_SCALE = 1e-2
"""Below this |g| the output holds too few digits of the unscaled row, which the gradient of g needs:
those rows are recomputed from W. None are small in ordinary training."""

SMALL_SCALE_WITH_BIAS = 0.5
"""The same where the output holds a bias too, whose rounding is divided by g: at g = 0.03 and a bias of
ten times the rest, the gradient was 13 times as far from the truth as plain PyTorch's."""

Weight = Tensor | Callable[[Tensor], Tensor] | None
"""W (O, I), or row numbers (K,) to those rows of W, (K, I), or None where no row can be had."""


class Grads(NamedTuple):
    """Of the base result, x, A, gB and g; None where not needed."""

    base_TO: Tensor | None
    x_TI: Tensor | None
    A_RI: Tensor | None
    gB_OR: Tensor | None
    g_O: Tensor | None


class Needs(NamedTuple):
    """Which gradients are needed."""

    base: bool
    x: bool
    A: bool
    B: bool
    g: bool


def round_share(dropout_p: float) -> float:
    """The probability as every backend can draw it: a multiple of 2^-16."""
    return round(dropout_p * 2**16) / 2**16


def backend(like: Tensor) -> ModuleType:
    """The module with the (T, O) work for a tensor: Triton kernels on a GPU, else plain PyTorch."""
    if not launch.uses_triton(like):
        return eager
    from doratune.ops.dora_linear import triton

    return triton


def forward_(
    y_TO: Tensor,
    x_TI: Tensor,
    A_RI: Tensor,
    gB_OR: Tensor,
    g_O: Tensor,
    bias_O: Tensor | None,
    mask: Tensor | None,
    dropout_p: float,
) -> Tensor:
    """Turns the base result y into the output, in place; all but g and bias in one dtype.

    Returns:
        ``h = drop(x) A^T``, (T, R).
    """
    kernels = backend(y_TO)
    if mask is None:
        h_TR = torch.mm(x_TI, A_RI.T)
    else:
        h_TR = kernels.dropout(x_TI, dropout_p, mask) @ A_RI.T
        h_TR *= _upscale(dropout_p)
    kernels.scale_up_(y_TO, h_TR, gB_OR, g_O, bias_O)
    return h_TR


def backward(
    dy_TO: Tensor,
    y_TO: Tensor,
    h_TR: Tensor,
    x_TI: Tensor,
    A_RI: Tensor,
    B_OR: Tensor,
    gB_OR: Tensor,
    g_O: Tensor,
    scaling: float,
    bias_O: Tensor | None,
    mask: Tensor | None,
    dropout_p: float,
    weight: Weight,
    needs: Needs,
    through_base: bool = False,
) -> Grads:
    """The gradients, in the dtype of dy, that of g in float32.

    ``weight`` is for rows with a small scale; without it their gradient has the digits that y left.
    With ``through_base``, where ``weight`` is W itself, the gradient of x takes the path through the
    base layer too. ``B_OR`` is ``lora_B``, and ``gB_OR`` is ``scaling g B`` in the dtype of y.
    """
    kernels = backend(dy_TO)
    base_TO, dx_TI, dA_RI, dgB_OR, dg_O = None, None, None, None, None
    needs_base = needs.base or (through_base and needs.x)
    if needs.g:
        # y - bias is g times the unscaled row, so the base product need not be kept, unless g is so
        # small that y has lost the row's digits.
        base_TO, scaled_O = kernels.scale_grad(dy_TO, y_TO, g_O, bias_O, needs_base)
        dg_O = scaled_O / g_O
        limit = SMALL_SCALE if bias_O is None else SMALL_SCALE_WITH_BIAS
        _repair_small_(dg_O, dy_TO, h_TR, x_TI, B_OR, scaling, g_O, weight, limit)
    elif needs_base:
        base_TO = torch.mul(dy_TO, g_O, out=torch.empty_like(dy_TO))
    if needs.x or needs.A:
        dh_TR = torch.mm(dy_TO, gB_OR)
        if mask is not None:
            dh_TR *= _upscale(dropout_p)
    if needs.A:
        kept_TI = x_TI if mask is None else kernels.dropout(x_TI, dropout_p, mask)
        dA_RI = torch.mm(dh_TR.T, kept_TI)
    if needs.x:
        dx_TI = torch.mm(dh_TR, A_RI)
        if mask is not None:
            kernels.dropout(dx_TI, dropout_p, mask, out=dx_TI)
        if through_base:
            assert base_TO is not None
            assert isinstance(weight, Tensor)
            dx_TI.addmm_(base_TO, weight)
    if needs.B:
        dgB_OR = torch.mm(dy_TO.T, h_TR)
    return Grads(base_TO if needs.base else None, dx_TI, dA_RI, dgB_OR, dg_O)


def bias_grad(dy_TO: Tensor, g_O: Tensor, through_base: bool) -> Tensor:
    """``Σ_t dy``, (O,), float32; less ``g Σ_t dy`` where that comes through the base result."""
    sum_O = dy_TO.sum(0, dtype=torch.float32)
    return sum_O if through_base else (1 - g_O) * sum_O


def _upscale(dropout_p: float) -> float:
    return 1 / (1 - dropout_p) if dropout_p < 1 else 0.0


def _repair_small_(
    dg_O: Tensor,
    dy_TO: Tensor,
    h_TR: Tensor,
    x_TI: Tensor,
    B_OR: Tensor,
    scaling: float,
    g_O: Tensor,
    weight: Weight,
    limit: float,
) -> None:
    """Puts ``Σ_t dy (x W^T + scaling h B^T)`` where ``|g| < limit``."""
    if isinstance(weight, Tensor) and launch.uses_triton(dy_TO):
        from doratune.ops.dora_linear.triton_small import repair_small_

        sB_OR = scaling * B_OR.float()
        repair_small_(dg_O, dy_TO, x_TI, weight, h_TR, sB_OR, g_O, limit)
        return
    if g_O.numel() and g_O.abs().amin().item() < limit:
        small_K = (g_O.abs() < limit).nonzero().squeeze(1)
        if weight is None:
            dg_O[small_K] = dg_O[small_K].nan_to_num(0, 0, 0)
            return
        W_KI = weight[small_K] if isinstance(weight, Tensor) else weight(small_K)
        unscaled_TK = x_TI.float() @ W_KI.float().T
        unscaled_TK.addmm_(h_TR.float(), B_OR[small_K].float().T, alpha=scaling)
        dg_O[small_K] = (dy_TO[:, small_K].float() * unscaled_TK).sum(0)

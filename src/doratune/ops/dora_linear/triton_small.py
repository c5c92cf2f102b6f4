"""The gradient of scales near zero as a GPU kernel, for `dora_linear` on a dense weight.

T tokens, O out_features, I in_features, R rank. Where the host may be asked whether there
are such rows, plain PyTorch does this (steps.py).
"""

# Arguments of kernels have no static types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from doratune.ops import launch


@triton.jit
def _repair_small_kernel(
    dg_ptr, dy_ptr, x_ptr, W_ptr, h_ptr, sB_ptr, g_ptr, limit,
    T, O, I, dy_stride_T, dy_stride_O, x_stride_T, x_stride_I, W_stride_O, W_stride_I,
    h_stride_T, h_stride_R, sB_stride_O, sB_stride_R,
    R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK_O features: ``(dy^T x) · W + (dy^T h) · sB`` where the scale is small, else nothing."""
    o = tl.program_id(0).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    small_O = tl.abs(tl.load(g_ptr + o, mask=o < O, other=1.0)) < limit
    if tl.sum(small_O.to(tl.int32), axis=0) > 0:
        dg_O = _dot_rows(
            dy_ptr, x_ptr, W_ptr, o, small_O, T, I, dy_stride_T, dy_stride_O,
            x_stride_T, x_stride_I, W_stride_O, W_stride_I, BLOCK_O, BLOCK,
        )  # fmt: skip
        dg_O += _dot_rows(
            dy_ptr, h_ptr, sB_ptr, o, small_O, T, R, dy_stride_T, dy_stride_O,
            h_stride_T, h_stride_R, sB_stride_O, sB_stride_R, BLOCK_O, BLOCK,
        )  # fmt: skip
        tl.store(dg_ptr + o, dg_O, mask=small_O)


@triton.jit
def _dot_rows(
    dy_ptr, x_ptr, W_ptr, o, small_O, T, I, dy_stride_T, dy_stride_O,
    x_stride_T, x_stride_I, W_stride_O, W_stride_I,
    BLOCK_O: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of ``dy^T x`` times rows of W, summed over I."""
    dot_O = tl.zeros((BLOCK_O,), tl.float32)
    for first_I in range(0, I, BLOCK):
        i = first_I + tl.arange(0, BLOCK).to(tl.int64)
        product_OI = tl.zeros((BLOCK_O, BLOCK), tl.float32)
        for first_T in range(0, T, BLOCK):
            t = first_T + tl.arange(0, BLOCK).to(tl.int64)
            at_OT = dy_ptr + t[None, :] * dy_stride_T + o[:, None] * dy_stride_O
            dy_OT = tl.load(at_OT, mask=small_O[:, None] & (t < T)[None, :], other=0.0)
            at_TI = x_ptr + t[:, None] * x_stride_T + i[None, :] * x_stride_I
            x_TI = tl.load(at_TI, mask=(t < T)[:, None] & (i < I)[None, :], other=0.0)
            product_OI = tl.dot(
                dy_OT.to(tl.float32), x_TI.to(tl.float32), acc=product_OI, input_precision="ieee"
            )
        at_OI = W_ptr + o[:, None] * W_stride_O + i[None, :] * W_stride_I
        W_OI = tl.load(at_OI, mask=small_O[:, None] & (i < I)[None, :], other=0.0)
        dot_O += tl.sum(product_OI * W_OI.to(tl.float32), axis=1)
    return dot_O


def repair_small_(
    dg_O: Tensor,
    dy_TO: Tensor,
    x_TI: Tensor,
    W_OI: Tensor,
    h_TR: Tensor,
    sB_OR: Tensor,
    g_O: Tensor,
    limit: float,
) -> None:
    """``dg := Σ_t dy (x W^T + h (sB)^T)`` in place, in the features with ``|g| < limit`` alone.

    Without asking the host whether there are any; where there are none it reads g and ends.

    Args:
        dg_O: Gradient of the scale, float32, contiguous.
        dy_TO: Gradient of the output.
        x_TI: Input of the layer.
        W_OI: Base weight, dense.
        h_TR: Low-rank activations.
        sB_OR: ``scaling B``, float32.
        g_O: Scale, float32, contiguous.
        limit: See `function.SMALL_SCALE`.
    """
    launch.check_dtypes(dy_TO, x_TI, W_OI, h_TR, sB_OR)
    (T, O), I = dy_TO.shape, x_TI.shape[1]
    if O == 0:
        return
    with launch.on(dy_TO):
        _repair_small_kernel[(triton.cdiv(O, 16),)](
            dg_O, dy_TO, x_TI, W_OI, h_TR, sB_OR, g_O, limit,
            T, O, I, *dy_TO.stride(), *x_TI.stride(), *W_OI.stride(),
            *h_TR.stride(), *sB_OR.stride(),
            R=h_TR.shape[1], BLOCK_O=16, BLOCK=32, num_warps=4, num_stages=1,
        )  # fmt: skip

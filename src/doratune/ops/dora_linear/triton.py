"""The (T, O) and (T, I) work of `dora_linear` as GPU kernels: the twin of eager.py.

T tokens, O out_features, I in_features, R rank, S splits of the tokens. Arithmetic is float32, rounded
once. Offsets are 64-bit: 16k tokens x 152k features pass 2^31. No atomics: same inputs, same bits.
"""

# Arguments of kernels have no static types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from doratune.ops import launch


@triton.jit
def _scale_up_kernel(
    y_ptr, h_ptr, gB_ptr, g_ptr, bias_ptr,
    T, O, y_stride_T, y_stride_O, h_stride_T, h_stride_R, gB_stride_O, gB_stride_R,
    R: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One (BLOCK_T, BLOCK_O) tile of ``y := g y + (1 - g) bias + h gB^T``."""
    blocks_O = tl.cdiv(O, BLOCK_O)
    t = (tl.program_id(0) // blocks_O).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    o = (tl.program_id(0) % blocks_O).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    in_T, in_O = t < T, o < O
    in_TO = in_T[:, None] & in_O[None, :]

    low_TO = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for first in tl.static_range(0, R, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        h_TR = tl.load(
            h_ptr + t[:, None] * h_stride_T + r[None, :] * h_stride_R,
            mask=in_T[:, None] & (r < R)[None, :],
            other=0.0,
        )
        gB_RO = tl.load(
            gB_ptr + o[None, :] * gB_stride_O + r[:, None] * gB_stride_R,
            mask=in_O[None, :] & (r < R)[:, None],
            other=0.0,
        )
        if UPCAST:
            h_TR, gB_RO = h_TR.to(tl.float32), gB_RO.to(tl.float32)
        low_TO = tl.dot(h_TR, gB_RO, acc=low_TO, input_precision=PRECISION)

    g_O = tl.load(g_ptr + o, mask=in_O, other=1.0)
    at = y_ptr + t[:, None] * y_stride_T + o[None, :] * y_stride_O
    y_TO = tl.load(at, mask=in_TO, other=0.0).to(tl.float32) * g_O[None, :]
    if bias_ptr is not None:
        bias_O = tl.load(bias_ptr + o, mask=in_O, other=0.0).to(tl.float32)
        y_TO += ((1.0 - g_O) * bias_O)[None, :]
    tl.store(at, (y_TO + low_TO).to(y_ptr.dtype.element_ty), mask=in_TO)


def scale_up_(
    y_TO: Tensor, h_TR: Tensor, gB_OR: Tensor, g_O: Tensor, bias_O: Tensor | None
) -> None:
    """``y := g (y - bias) + bias + h gB^T`` in place, so arranged that g = 1 and gB = 0 change no bit.

    One read and one write of y. Any strides.

    Args:
        y_TO: Base result, overwritten.
        h_TR: Low-rank activations, dtype of y.
        gB_OR: ``scaling g B``, dtype of y.
        g_O: Scale, float32, contiguous.
        bias_O: Bias that the base result holds, contiguous.
    """
    launch.check_dtypes(y_TO, h_TR, gB_OR, bias_O)
    if y_TO.numel() == 0:
        return
    (T, O), R = y_TO.shape, h_TR.shape[1]
    options = launch.settings("scale_up", y_TO, R)
    options["BLOCK_R"] = min(options["BLOCK_R"], max(16, triton.next_power_of_2(R)))
    grid = (triton.cdiv(T, options["BLOCK_T"]) * triton.cdiv(O, options["BLOCK_O"]),)
    with launch.on(y_TO):
        _scale_up_kernel[grid](
            y_TO, h_TR, gB_OR, g_O, bias_O,
            T, O, *y_TO.stride(), *h_TR.stride(), *gB_OR.stride(),
            R=R, **options, **launch.dot_options(),
        )  # fmt: skip


@triton.jit
def _scale_grad_kernel(
    dy_ptr, y_ptr, dbase_ptr, part_ptr, g_ptr, bias_ptr,
    T, O, dy_stride_T, dy_stride_O, y_stride_T, y_stride_O,
    BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """BLOCK_S tokens of BLOCK_O features: ``g dy``, and the partial sum of ``dy (y - bias)``."""
    blocks_O = tl.cdiv(O, BLOCK_O)
    s = (tl.program_id(0) // blocks_O).to(tl.int64)
    o = (tl.program_id(0) % blocks_O).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    in_O = o < O
    g_O = tl.load(g_ptr + o, mask=in_O, other=0.0)
    sum_TO = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for first in range(0, BLOCK_S, BLOCK_T):
        t = s * BLOCK_S + first + tl.arange(0, BLOCK_T)
        in_TO = (t < T)[:, None] & in_O[None, :]
        dy_at = dy_ptr + t[:, None] * dy_stride_T + o[None, :] * dy_stride_O
        dy_TO = tl.load(dy_at, mask=in_TO, other=0.0).to(tl.float32)
        y_at = y_ptr + t[:, None] * y_stride_T + o[None, :] * y_stride_O
        y_TO = tl.load(y_at, mask=in_TO, other=0.0).to(tl.float32)
        if bias_ptr is not None:
            y_TO -= tl.load(bias_ptr + o, mask=in_O, other=0.0).to(tl.float32)[None, :]
        sum_TO += dy_TO * y_TO  # 0 outside: dy is
        if dbase_ptr is not None:
            dbase_TO = (dy_TO * g_O[None, :]).to(dbase_ptr.dtype.element_ty)
            tl.store(dbase_ptr + t[:, None] * O + o[None, :], dbase_TO, mask=in_TO)
    tl.store(part_ptr + s * O + o, tl.sum(sum_TO, axis=0), mask=in_O)


def scale_grad(
    dy_TO: Tensor, y_TO: Tensor, g_O: Tensor, bias_O: Tensor | None, needs_base: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradient of the base result, ``g dy``, and of the scale times the scale, ``Σ_t dy (y - bias)``.

    One read of dy and y. Tokens are summed in blocks of a size that depends on the shape alone, then
    the blocks' sums: always in the same order.

    Returns:
        (T, O) in dtype of dy, None unless ``needs_base``; and (O,), float32.
    """
    launch.check_dtypes(dy_TO, y_TO, bias_O)
    T, O = dy_TO.shape
    dbase_TO = torch.empty(T, O, dtype=dy_TO.dtype, device=dy_TO.device) if needs_base else None
    if dy_TO.numel() == 0:
        return dbase_TO, dy_TO.new_zeros(O, dtype=torch.float32)
    options = launch.settings("scale_grad", dy_TO, T)
    splits = triton.cdiv(T, options["BLOCK_S"])
    part_SO = torch.empty(splits, O, dtype=torch.float32, device=dy_TO.device)
    with launch.on(dy_TO):
        _scale_grad_kernel[(splits * triton.cdiv(O, options["BLOCK_O"]),)](
            dy_TO, y_TO, dbase_TO, part_SO, g_O, bias_O,
            T, O, *dy_TO.stride(), *y_TO.stride(), **options,
        )  # fmt: skip
    return dbase_TO, part_SO.sum(0)


@triton.jit
def _dropout_kernel(x_ptr, out_ptr, seed_ptr, elements, threshold, BLOCK: tl.constexpr):
    """Four elements share one Philox counter, their index / 4: the mask knows nothing of BLOCK."""
    GROUPS: tl.constexpr = BLOCK // 4
    block = tl.program_id(0).to(tl.int64)
    r0, r1, r2, r3 = tl.randint4x(tl.load(seed_ptr), block * GROUPS + tl.arange(0, GROUPS))
    bits = tl.interleave(tl.interleave(r0, r2), tl.interleave(r1, r3))
    e = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + e, mask=e < elements, other=0.0)
    # Signed: the random 32 bits count as an int32, from -2^31 on.
    kept = bits.to(tl.int32, bitcast=True).to(tl.int64) >= threshold
    tl.store(out_ptr + e, tl.where(kept, x, 0.0), mask=e < elements)


def draw_mask(x_TI: Tensor, dropout_p: float) -> Tensor:
    """A seed, 0-dim int64, from PyTorch's default generator of the device, without a host sync.

    It stands for a whole mask, which `dropout` makes anew each time: nothing of x's size is stored.
    """
    return torch.randint(-(1 << 63), (1 << 63) - 1, (), dtype=torch.int64, device=x_TI.device)


def dropout(x_TI: Tensor, dropout_p: float, mask: Tensor, out: Tensor | None = None) -> Tensor:
    """Keeps what the mask keeps of x, and 0 elsewhere; not scaled. ``out`` may be x itself.

    The element at a (row-major) index depends on the seed and that index alone, not on dtype, device
    or launch settings.

    Args:
        x_TI: Contiguous, or copied.
        dropout_p: Share that is dropped.
        mask: The seed from `draw_mask`.
        out: Contiguous.
    """
    launch.check_dtypes(x_TI)
    x_TI = x_TI.contiguous()
    out = torch.empty_like(x_TI) if out is None else out
    if not out.is_contiguous():
        raise ValueError(f"dropout writes to contiguous tensors; out has strides {out.stride()}")
    if x_TI.numel() == 0:
        return out
    options = launch.settings("dropout", x_TI, x_TI.numel())
    threshold = round(dropout_p * (1 << 32)) - (1 << 31)
    with launch.on(x_TI):
        _dropout_kernel[(triton.cdiv(x_TI.numel(), options["BLOCK"]),)](
            x_TI, out, mask, x_TI.numel(), threshold, **options
        )
    return out

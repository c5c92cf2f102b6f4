"""The last step of the factored norm of a dense weight as one GPU kernel, rare rows included.

O out_features, I in_features, R rank. The eager form asks the host whether a row cancels, which makes
it wait for the GPU in every layer; here each program looks at its own rows.
"""

# Arguments of kernels have no static types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from doratune.ops import launch
from doratune.ops.weight_norm.eager import CANCELLED


@triton.jit
def _load(ptr, row, column, row_stride, column_stride, in_row, in_column):
    """A tile as float32, 0 outside."""
    at = ptr + row[:, None] * row_stride + column[None, :] * column_stride
    return tl.load(at, mask=in_row[:, None] & in_column[None, :], other=0.0).to(tl.float32)


@triton.jit
def _finish_norm_kernel(
    w2_ptr, product_ptr, gram_ptr, B_ptr, W_ptr, A_ptr, zero_ptr, n2_ptr,
    scaling, O, I, product_stride_O, product_stride_R, B_stride_O, B_stride_R,
    W_stride_O, W_stride_I, A_stride_R, A_stride_I,
    R: tl.constexpr, CANCELLED: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """``n² = w2 + s b (2 P + s b G)`` for BLOCK_O rows; those that cancel from W + s B A itself."""
    o = tl.program_id(0).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    in_O = o < O
    w2_O = tl.load(w2_ptr + o, mask=in_O, other=1.0)
    n2_O = w2_O
    for first in range(0, R, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        inner_OR = 2.0 * _load(product_ptr, o, r, product_stride_O, product_stride_R, in_O, r < R)
        for first_Q in range(0, R, BLOCK_R):
            q = first_Q + tl.arange(0, BLOCK_R)
            sB_OQ = scaling * _load(B_ptr, o, q, B_stride_O, B_stride_R, in_O, q < R)
            gram_QR = _load(gram_ptr, q, r, R, 1, q < R, r < R)
            inner_OR = tl.dot(sB_OQ, gram_QR, acc=inner_OR, input_precision="ieee")
        sB_OR = scaling * _load(B_ptr, o, r, B_stride_O, B_stride_R, in_O, r < R)
        n2_O += tl.sum(sB_OR * inner_OR, axis=1)

    zero = tl.load(zero_ptr)
    rare_O = in_O & (n2_O <= tl.maximum(w2_O * CANCELLED, zero))
    if tl.sum(rare_O.to(tl.int32), axis=0) > 0:
        dense_O = tl.zeros((BLOCK_O,), tl.float32)
        for first_I in range(0, I, BLOCK_I):
            i = first_I + tl.arange(0, BLOCK_I).to(tl.int64)
            V_OI = _load(W_ptr, o, i, W_stride_O, W_stride_I, rare_O, i < I)
            for first in range(0, R, BLOCK_R):
                p = first + tl.arange(0, BLOCK_R)
                sB_OP = scaling * _load(B_ptr, o, p, B_stride_O, B_stride_R, rare_O, p < R)
                A_PI = _load(A_ptr, p, i, A_stride_R, A_stride_I, p < R, i < I)
                V_OI = tl.dot(sB_OP, A_PI, acc=V_OI, input_precision="ieee")
            dense_O += tl.sum(V_OI * V_OI, axis=1)
        n2_O = tl.where(rare_O, tl.where(dense_O <= zero, 0.0, dense_O), n2_O)
    tl.store(n2_ptr + o, n2_O, mask=in_O)


def finish_norm(
    norm_squared_O: Tensor,
    product_OR: Tensor,
    gram_RR: Tensor,
    B_OR: Tensor,
    scaling: float,
    W_OI: Tensor,
    A_RI: Tensor,
    zero_squared: Tensor,
) -> Tensor:
    """Norm of every output feature of ``W + scaling B A``, without a host sync; any strides.

    W is read in the rows that cancel, and there alone. ``num_stages=1``, since prefetching tiles of the
    nested float32 products spills 3.7 KB of registers a thread at rank 128 (ptxas, sm80).

    Args:
        norm_squared_O: ``‖W‖²``, (O,), float32, contiguous.
        product_OR: ``W A^T``, any float dtype.
        gram_RR: ``A A^T``, float32, contiguous.
        B_OR: ``lora_B``.
        scaling: Factor of the update.
        W_OI: The frozen weight.
        A_RI: ``lora_A``.
        zero_squared: Square of the norm up to which a row counts as zero, 0-dim, float32.

    Returns:
        (O,), float32. With ``B = 0`` it is ``sqrt(norm_squared_O)`` bit for bit.
    """
    launch.check_dtypes(norm_squared_O, product_OR, gram_RR, B_OR, W_OI, A_RI)
    O, I = W_OI.shape
    R = A_RI.shape[0]
    n2_O = torch.empty_like(norm_squared_O)
    if O == 0:
        return n2_O
    options = launch.settings("finish_norm", norm_squared_O, R)
    options["BLOCK_R"] = min(options["BLOCK_R"], max(16, triton.next_power_of_2(R)))
    with launch.on(W_OI):
        _finish_norm_kernel[(triton.cdiv(O, options["BLOCK_O"]),)](
            norm_squared_O, product_OR, gram_RR, B_OR, W_OI, A_RI, zero_squared, n2_O,
            scaling, O, I, *product_OR.stride(), *B_OR.stride(), *W_OI.stride(), *A_RI.stride(),
            R=R, CANCELLED=CANCELLED, num_stages=1, **options,
        )  # fmt: skip
    # PyTorch's own root: with Triton's, m / n at step 0 could be 1 ± 2^-24.
    return n2_O.sqrt_()

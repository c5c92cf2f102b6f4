"""A weight read in pieces, so that its float32 form never exists whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

CPU_ELEMENTS = 1 << 20
"""Elements of a weight that is not there as floating-point numbers turned into them at a time, on a CPU:
4 MiB of float32, written and read again within the cache."""

GPU_ELEMENTS = 1 << 26
"""Elements read at a time on other devices, where reductions convert in registers."""

PIECES = range(1024, 255, -1)
"""Lengths into which a row is cut, if one divides it. The kernel adds up 1/32 of a piece one after the
other: of a bf16 row of 11008 the whole has 50 times the error of PyTorch's pairwise sum, pieces 2."""


def norm_squared(W_OI: Tensor, read: Callable[[slice], Tensor] | None = None) -> Tensor:
    """``‖W‖²`` of every row of W: (O,), float32.

    Args:
        W_OI: The weight, or a stand-in with its shape and device.
        read: A slice of row numbers to those rows of W, any dtype; indexing by default.
    """
    on_cpu = W_OI.device.type == "cpu"
    if on_cpu and read is None and W_OI.is_contiguous() and W_OI.is_floating_point():
        return _sums_of_squares(W_OI).float()
    read = read or W_OI.__getitem__
    squared_O = torch.empty(W_OI.shape[0], dtype=torch.float32, device=W_OI.device)
    for rows in row_slices(W_OI):
        part_KI = read(rows).detach()
        if on_cpu:
            squared_O[rows] = _sums_of_squares(part_KI)
        else:
            norm_K = torch.linalg.vector_norm(part_KI, dim=1, dtype=torch.float32)
            squared_O[rows] = norm_K.square_()
    return squared_O


def norm_squared_of_columns(W_IO: Tensor) -> Tensor:
    """The same for a weight that is stored transposed: norms of its columns."""
    norm_O = torch.zeros(W_IO.shape[1], dtype=torch.float32, device=W_IO.device)
    for rows in row_slices(W_IO):
        norm_O += W_IO[rows].to(torch.float32, copy=True).square_().sum(0)
    return norm_O


def row_slices(W_OI: Tensor) -> Iterator[slice]:
    """The row numbers of W, in pieces."""
    elements = CPU_ELEMENTS if W_OI.device.type == "cpu" else GPU_ELEMENTS
    step = max(1, elements // max(1, W_OI.shape[1]))
    return (slice(start, start + step) for start in range(0, W_OI.shape[0], step))


def _sums_of_squares(W_KI: Tensor) -> Tensor:
    """``Σ w²`` of every row, (K,), in float32 or wider, on a CPU.

    It is the gradient, ``Σ dy x``, that group normalisation gives its scale at mean 0 and deviation 1:
    the one kernel of PyTorch that multiplies bf16 numbers and adds up in float32 as it reads them. It
    takes 0.12 ns an element (one AVX512 core), reading alone 0.08, a float32 copy and its norm 0.27, and
    reductions with a ``dtype``, which are not vectorised, more than 1.
    """
    K, I = W_KI.shape
    if not W_KI.is_floating_point():
        W_KI = W_KI.float()
    wide = torch.promote_types(W_KI.dtype, torch.float32)
    if W_KI.numel() == 0:
        return torch.zeros(K, dtype=wide)
    piece = next((length for length in PIECES if I % length == 0), I)
    x = W_KI.contiguous().view(-1, piece)  # the kernel reads strided memory as if it were not
    mean, scale = torch.zeros(1, 1, dtype=wide), torch.ones(len(x), dtype=wide)
    _, squared, _ = torch.ops.aten.native_group_norm_backward(
        x, x, mean, mean + 1, scale, 1, len(x), piece, 1, [False, True, False]
    )
    return squared.view(K, -1).sum(1)

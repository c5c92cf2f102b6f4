"""A weight read in pieces, so that its float32 form never exists whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

CPU_ELEMENTS = 1 << 20
"""Elements turned to float32 at a time: 4 MiB, written and read again within a core's cache. A
4096 x 11008 bf16 weight takes 20 ms on one core; with a new tensor for every piece, 230 ms."""

GPU_ELEMENTS = 1 << 24
"""The same for other devices: 64 MiB, enough to fill one."""


def norm_squared(W_OI: Tensor, read: Callable[[slice], Tensor] | None = None) -> Tensor:
    """``‖W‖²`` of every row of W: (O,), float32.

    Args:
        W_OI: The weight, or a stand-in with its shape and device.
        read: A slice of row numbers to those rows of W, any dtype; indexing by default.
    """
    read = read or W_OI.__getitem__
    norm_O = torch.empty(W_OI.shape[0], dtype=torch.float32, device=W_OI.device)
    buffer = None
    for rows in row_slices(W_OI):
        part_KI = read(rows)
        if buffer is None:
            buffer = torch.empty_like(part_KI, dtype=torch.float32)
        squares_KI = buffer[: len(part_KI)].copy_(part_KI).square_()
        torch.sum(squares_KI, 1, out=norm_O[rows])
    return norm_O


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

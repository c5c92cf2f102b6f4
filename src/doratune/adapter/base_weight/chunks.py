"""A weight read in pieces, so that its float32 form never exists whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

CPU_ELEMENTS = 1 << 20
"""Elements turned to float32 at a time: 4 MiB, written and read again within the cache. A bf16 weight of
11008 x 4096 takes 11 ms on two cores, of which the conversion alone 7; one read takes 5. PyTorch's
reductions that convert as they go, such as ``sum`` with a ``dtype``, take 100: not vectorised."""

GPU_ELEMENTS = 1 << 26
"""Elements read at a time on other devices, where those reductions convert in registers."""


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
        if W_OI.device.type == "cpu":
            buffer = torch.empty_like(part_KI, dtype=torch.float32) if buffer is None else buffer
            part_KI = buffer[: len(part_KI)].copy_(part_KI)
        torch.linalg.vector_norm(part_KI.detach(), dim=1, dtype=torch.float32, out=norm_O[rows])
    return norm_O.square_()


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

"""Sequences in padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from doratune.progress import track


def batches(lengths: Sequence[int], batch_size: int, description: str) -> Iterator[list[int]]:
    """Indices in batches of similar length, under a progress bar unless ``description`` is empty.

    The longest come first: what does not fit into memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if description:
        yield from track(chunks, description, total=len(chunks))
    else:
        yield from chunks


def left_padded(
    sequences: Sequence[list[int]], pad_id: int, device: torch.device
) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``position_ids`` of sequences that end together.

    Returns:
        Integer tensors of shape ``(len(sequences), length of the longest)``.
    """
    width = max(map(len, sequences))
    ids = torch.tensor([[pad_id] * (width - len(s)) + s for s in sequences], device=device)
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    positions = torch.arange(width, device=device) - (width - lengths)[:, None]
    return {
        "input_ids": ids,
        "attention_mask": (positions >= 0).long(),
        "position_ids": positions.clamp(min=0),
    }

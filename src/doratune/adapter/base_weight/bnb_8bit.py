"""bitsandbytes' 8-bit weights: int8 numbers with one float32 scale per output feature.

The layer's forward quantises its input, so the norm does not go through it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from doratune.adapter.base_weight import chunks


def fits(layer: Any) -> bool:
    """Whether the layer is bitsandbytes' ``Linear8bitLt`` with a quantised weight."""
    kinds = [kind for kind in type(layer).__mro__ if kind.__module__.startswith("bitsandbytes.")]
    named = any(kind.__name__ == "Linear8bitLt" for kind in kinds)
    return named and layer.weight.dtype == torch.int8 and _scale_O(layer) is not None


@torch.no_grad()
def norm_squared(layer: Any) -> Tensor:
    """``‖W‖²`` of every output feature, (O,), float32."""
    return chunks.norm_squared(layer.weight.detach()) * _scale_O(layer).square()


@torch.no_grad()
def project(layer: Any, A_RI: Tensor) -> Tensor:
    """``W A^T``, (O, R), float32."""
    W_OI, A_IR = layer.weight.detach(), A_RI.float().T
    parts = [W_OI[rows].float() @ A_IR for rows in chunks.row_slices(W_OI)]
    return torch.cat(parts) * _scale_O(layer)[:, None]


@torch.no_grad()
def rows(layer: Any, index_K: Tensor) -> Tensor:
    """The rows of W with these numbers, (K, I), float32."""
    return layer.weight.detach()[index_K].float() * _scale_O(layer)[index_K, None]


def _scale_O(layer: Any) -> Any:
    """What an int8 number is multiplied with; it moves from the weight to the state in a forward."""
    largest = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
    return None if largest is None else largest.to(layer.weight.device, torch.float32) / 127

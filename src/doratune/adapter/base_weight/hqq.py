"""HQQ's quantised weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from doratune.adapter.base_weight import chunks


def fits(layer: Any) -> bool:
    """Whether the layer is ``HQQLinear`` with a quantised weight."""
    kind = type(layer)
    named = kind.__name__ == "HQQLinear" and kind.__module__.startswith("hqq.")
    return named and layer.W_q is not None


@torch.no_grad()
def norm_squared(layer: Any) -> Tensor:
    """``‖W‖²`` of every output feature, (O,), float32. Dequantises W once, as a forward does."""
    return chunks.norm_squared(_dequantized(layer))


@torch.no_grad()
def project(layer: Any, A_RI: Tensor) -> Tensor:
    """``W A^T``, (O, R). Dequantises W once, as the layer's forward does."""
    W_OI = _dequantized(layer)
    return W_OI @ A_RI.to(W_OI.dtype).T


@torch.no_grad()
def rows(layer: Any, index_K: Tensor) -> Tensor:
    """The rows of W with these numbers, (K, I)."""
    return _dequantized(layer)[index_K]


def _dequantized(layer: Any) -> Tensor:
    return layer.dequantize()

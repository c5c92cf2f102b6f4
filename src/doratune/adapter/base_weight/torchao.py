"""torchao's quantised weights: tensor subclasses in an ordinary ``nn.Linear``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from doratune.adapter.base_weight import chunks


def fits(layer: Any) -> bool:
    """Whether the weight is one of torchao's quantised tensors."""
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
        return False
    weight = type(layer.weight)
    return weight.__module__.startswith("torchao.") and hasattr(weight, "dequantize")


@torch.no_grad()
def norm_squared(layer: Any) -> Tensor:
    """``‖W‖²`` of every output feature, (O,), float32."""
    return chunks.norm_squared(layer.weight, lambda rows: layer.weight[rows].dequantize())


@torch.no_grad()
def project(layer: Any, A_RI: Tensor) -> Tensor:
    """``W A^T``, (O, R), by the product of the layer's own forward, without its bias."""
    return F.linear(A_RI.to(layer.weight.dtype), layer.weight).T


@torch.no_grad()
def rows(layer: Any, index_K: Tensor) -> Tensor:
    """The rows of W with these numbers, (K, I)."""
    return layer.weight.dequantize()[index_K]

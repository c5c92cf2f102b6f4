"""The frozen weight of a PEFT layer, as the norm wants to see it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from doratune.ops import BaseWeight

CHUNK_ELEMENTS = 1 << 22
"""Elements of a weight turned to float32 at a time: 16 MiB."""


def is_dense(layer: nn.Module) -> bool:
    """Whether the layer is a plain matrix: ``nn.Linear``, or transformers' ``Conv1D``."""
    return isinstance(layer, (nn.Linear, Conv1D)) and layer.weight.is_floating_point()


@torch.no_grad()
def norm_squared(layer: nn.Linear) -> Tensor:
    """``‖W‖²`` of every output feature of a dense layer, (out_features,), float32; one read of W."""
    weight = _weight_OI(layer)
    rows = max(1, CHUNK_ELEMENTS // max(1, weight.shape[1]))
    return torch.cat([chunk.float().square().sum(1) for chunk in weight.split(rows)])


def base_weight(layer: nn.Linear, norm_squared_O: Tensor) -> BaseWeight:
    """The weight of a dense layer, of which ``norm_squared`` has been taken before."""

    def project(A_RI: Tensor) -> Tensor:
        product_RO: Tensor = layer(A_RI.to(layer.weight.dtype))
        return product_RO if layer.bias is None else product_RO - layer.bias

    return BaseWeight(norm_squared_O, project, lambda index_K: _weight_OI(layer)[index_K])


def _weight_OI(layer: nn.Linear) -> Tensor:
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight

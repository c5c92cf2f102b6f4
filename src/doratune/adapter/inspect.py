"""How far each adapted layer has moved from its base weight (DoRA, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from doratune.adapter.base_weight import base_weight, is_dense, norm_squared
from doratune.adapter.variant import FastDoraLinearVariant
from doratune.ops import direction_change, weight_norm


class LayerState(NamedTuple):
    """One adapted layer."""

    layer: str
    """Module path in the base model."""
    magnitude_change: Tensor
    """``|‖W'‖ - ‖W‖| / ‖W‖`` of every output feature, (out_features,), float32."""
    direction_change: Tensor
    """``1 - cos(W', W)`` of every output feature, (out_features,), float32."""


@torch.no_grad()
def layer_states(
    model: nn.Module,
    adapter_name: str = "default",
    norms_squared: dict[str, Tensor] | None = None,
) -> Iterator[LayerState]:
    """Yields the change of every dense layer that carries the adapter, LoRA or DoRA.

    Nothing of the size of a weight is formed.

    Args:
        model: A model with PEFT layers.
        adapter_name: The adapter looked at.
        norms_squared: ``‖W‖²`` by layer, filled here. Who asks again and again passes the same one:
            layers that are not fast do not know theirs, and taking it reads all of W.
    """
    norms_squared = {} if norms_squared is None else norms_squared
    for name, module in model.named_modules():
        if not (isinstance(module, Linear) and adapter_name in module.lora_A):
            continue
        layer = module.get_base_layer()
        if not is_dense(layer):
            continue
        variant = module.lora_variant.get(adapter_name)
        if isinstance(variant, FastDoraLinearVariant):
            norms_squared[name] = variant.norm_squared_O
        elif name not in norms_squared:
            norms_squared[name] = norm_squared(layer)
        base = base_weight(layer, norms_squared[name])
        factors = (
            module.lora_A[adapter_name].weight,
            module.lora_B[adapter_name].weight,
            module.scaling[adapter_name],
        )
        before = base.norm_squared_O.sqrt()
        after = (
            module.lora_magnitude_vector[adapter_name].weight.abs()
            if module.use_dora[adapter_name]
            else weight_norm(base, *factors)
        )
        yield LayerState(
            name.removeprefix("base_model.model."),
            torch.where(before > 0, (after - before).abs() / before, 0.0),
            direction_change(base, *factors),
        )

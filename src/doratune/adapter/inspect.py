"""How far each adapted layer has moved from its base weight (DoRA, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from doratune.adapter.base_weight import base_weight, is_dense
from doratune.adapter.variant import FastDoraLinearVariant
from doratune.ops import BaseWeight, direction_change, weight_norm


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
    bases: dict[str, BaseWeight] | None = None,
) -> Iterator[LayerState]:
    """Yields the change of every dense layer that carries the adapter, LoRA or DoRA.

    Nothing of the size of a weight is formed.

    Args:
        model: A model with PEFT layers.
        adapter_name: The adapter looked at.
        bases: The base weight by layer, filled here. Who asks again and again passes the same one:
            layers that are not fast do not know theirs, and taking its norm reads all of W.
    """
    bases = {} if bases is None else bases
    for name, module in model.named_modules():
        if not (isinstance(module, Linear) and adapter_name in module.lora_A):
            continue
        layer = module.get_base_layer()
        if not is_dense(layer):
            continue
        variant = module.lora_variant.get(adapter_name)
        if isinstance(variant, FastDoraLinearVariant):
            bases[name] = variant.norm.base(module)
        elif name not in bases:
            bases[name] = base_weight(layer)
        base = bases[name]
        factors = (
            module.lora_A[adapter_name].weight,
            module.lora_B[adapter_name].weight,
            module.scaling[adapter_name],
        )
        before = base.norm_squared_O.sqrt()
        after = (
            module.lora_magnitude_vector[adapter_name].weight.abs()
            if adapter_name in module.lora_magnitude_vector
            else weight_norm(base, *factors)
        )
        yield LayerState(
            name.removeprefix("base_model.model."),
            torch.where(before > 0, (after - before).abs() / before, 0.0),
            direction_change(base, *factors),
        )

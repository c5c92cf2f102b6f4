"""PEFT's extension point for DoRA, filled with doratune's op."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import Linear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn

from doratune.adapter.base_weight import base_weight, norm_squared
from doratune.ops import dora_linear, weight_norm


class FastDoraLinearVariant(DoraLinearVariant):
    """Takes the place of PEFT's ``DoraLinearVariant`` in one layer for one adapter.

    Merging and unmerging stay PEFT's.
    """

    def __init__(self, module: Linear, replaced: DoraLinearVariant) -> None:
        self.replaced = replaced
        self.norm_squared_O = norm_squared(module.get_base_layer())

    def supports_lora_conversion(self) -> bool:
        """False: ``peft.convert_to_lora`` would drop the magnitude without a word."""
        return False

    def weight_norm(self, module: Linear, adapter_name: str) -> Tensor:
        """Norm of every output feature of the adapted weight, (out_features,), float32."""
        A, B = module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight
        if self.norm_squared_O.device != A.device:
            self.norm_squared_O = self.norm_squared_O.to(A.device)
        base = base_weight(module.get_base_layer(), self.norm_squared_O)
        return weight_norm(base, A, B, module.scaling[adapter_name])

    def forward(
        self, module: Linear, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """The layer's output; see `doratune.ops.dora_linear`. Writes into ``result``."""
        base_layer: nn.Linear = module.get_base_layer()
        if base_layer._forward_hooks:
            result = result.clone()  # a hook may have kept the base result
        return dora_linear(
            result,
            x,
            module.lora_A[active_adapter].weight,
            module.lora_B[active_adapter].weight,
            module.lora_magnitude_vector[active_adapter].weight,
            self.weight_norm(module, active_adapter),
            module.scaling[active_adapter],
            base_layer.bias,
            getattr(module.lora_dropout[active_adapter], "p", 0.0) if module.training else 0.0,
        )

"""Fast DoRA for convolutions in one, two and three dimensions."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from doratune.adapter.autograd_variant import FastDoraAutogradVariant
from doratune.adapter.sharding import whole_bias, whole_weight


def why_not_conv(layer: Any) -> str | None:
    """Why a convolution must stay on PEFT's path; None when it need not.

    PEFT makes ``lora_A`` without the base layer's dilation, groups and padding mode (0.21.2), so there
    ``B A`` is no change of the base weight, and no norm would be that of an adapted weight.
    """
    if layer.groups != 1:
        return "convolutions in groups have no fast form"
    if any(step != 1 for step in layer.dilation) or layer.padding_mode != "zeros":
        return "dilated convolutions, and those not padded with zeros, have no fast form"
    return None


class FastDoraConvVariant(FastDoraAutogradVariant):
    """Takes the place of PEFT's ``DoraConv1dVariant``, 2d or 3d in one layer for one adapter."""

    @staticmethod
    def factors(module: LoraLayer, adapter_name: str) -> tuple[Tensor, Tensor]:
        """``lora_A`` (R, in_channels * kernel) and ``lora_B`` (out_channels, R)."""
        A, B = whole_weight(module.lora_A[adapter_name]), whole_weight(module.lora_B[adapter_name])
        return A.flatten(1), B.flatten(1)

    def forward(
        self, module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """The layer's output; dropout is on the low-rank branch only."""
        dropped = module.lora_dropout[active_adapter](x)
        low = module.lora_B[active_adapter](module.lora_A[active_adapter](dropped))
        unscaled = result + low * module.scaling[active_adapter]
        return self.scale(module, active_adapter, unscaled, whole_bias(module.get_base_layer()), 1)

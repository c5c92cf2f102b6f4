"""torchtune's DoRA layer, with the numbers of a PEFT one."""

from __future__ import annotations

import importlib.util

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

NAME = "torchtune DoRA"


def is_installed() -> bool:
    """Whether it is there. Its last release, 0.6.1, needs torchao 0.14 or older."""
    return importlib.util.find_spec("torchtune") is not None


class _TorchtuneLayer(nn.Module):
    def __init__(self, peft_layer: LoraLayer, dropout: float) -> None:
        super().__init__()
        from torchtune.modules.peft import DoRALinear

        base, r = peft_layer.get_base_layer(), peft_layer.r["default"]
        alpha = peft_layer.scaling["default"] * r
        with torch.device("meta"):
            layer = DoRALinear(base.in_features, base.out_features, r, alpha, dropout)
        # All in the base's dtype: its forward mixes none.
        factors = (peft_layer.lora_A["default"], peft_layer.lora_B["default"])
        A, B = (nn.Parameter(f.weight.detach().to(base.weight.dtype)) for f in factors)
        m = peft_layer.lora_magnitude_vector["default"].weight.detach().to(base.weight.dtype)
        layer.weight, layer.lora_a.weight, layer.lora_b.weight = base.weight, A, B
        layer.magnitude = nn.Parameter(m)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def like(model: nn.Module, dropout: float) -> nn.Module:
    """torchtune's form of a model that is one PEFT layer."""
    layer = next(m for m in model.modules() if isinstance(m, LoraLayer))
    return _TorchtuneLayer(layer, dropout).train()

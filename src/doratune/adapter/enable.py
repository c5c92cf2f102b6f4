"""Putting the fast layers into a PEFT model, and taking them out again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from peft.tuners.lora import Linear, LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from torch import nn

from doratune.adapter.base_weight import is_dense
from doratune.adapter.variant import FastDoraLinearVariant

FRESH_MAGNITUDE = 0.01
"""Largest relative distance between PEFT's initial magnitude and the norm. PEFT rounds the norm of a
bf16 weight to bf16 on the way; up to 0.4 % were measured (PEFT 0.21.2)."""


@dataclass(frozen=True)
class FastDoraSummary:
    """What `enable_fast_dora` did, per layer and adapter."""

    fast: list[str] = field(default_factory=list)
    """Names of the layers that now run on doratune's op."""
    left_to_peft: dict[str, list[str]] = field(default_factory=dict)
    """Names of the DoRA layers that stay on PEFT's path, by reason."""
    num_magnitudes_reset: int = 0
    """Untrained magnitudes set to the exact float32 norm, so that the model is the base model."""

    def __str__(self) -> str:
        lines = [f"fast DoRA in {len(self.fast)} layers"]
        lines += [
            f"left to PEFT: {len(names)} ({reason}), such as {names[0]}"
            for reason, names in self.left_to_peft.items()
        ]
        return "; ".join(lines)


def enable_fast_dora(model: nn.Module) -> FastDoraSummary:
    """Moves every DoRA layer of a PEFT model that can be moved to doratune's op, in place.

    Magnitudes become float32 parameters. Where an adapter is untrained (``lora_B`` is zero and the
    magnitude is the weight norm up to PEFT's rounding) its magnitude is set to the exact norm, after
    which the model's outputs equal the base model's bit for bit. Calling it again is harmless, and is
    needed after adding an adapter or changing base weights.

    Args:
        model: A model with PEFT LoRA layers, before its optimizer is made.

    Returns:
        Which layers are fast, and which were left to PEFT and why.
    """
    summary = FastDoraSummary()
    num_reset = 0
    for name, module in _lora_layers(model):
        for adapter_name, variant in list(module.lora_variant.items()):
            if not isinstance(variant, DoraLinearVariant):
                continue
            if reason := _why_not(module, adapter_name, variant):
                summary.left_to_peft.setdefault(reason, []).append(name)
                continue
            replaced = variant.replaced if isinstance(variant, FastDoraLinearVariant) else variant
            fast = FastDoraLinearVariant(module, replaced)
            module.lora_variant[adapter_name] = fast
            num_reset += _reset_magnitude_if_untrained(module, adapter_name, fast)
            summary.fast.append(name)
        _set_input_cast(module)
    return FastDoraSummary(summary.fast, summary.left_to_peft, num_reset)


def disable_fast_dora(model: nn.Module) -> None:
    """Puts PEFT's own forward back into every layer. Weights and magnitudes are not touched."""
    for _, module in _lora_layers(model):
        for adapter_name, variant in list(module.lora_variant.items()):
            if isinstance(variant, FastDoraLinearVariant):
                module.lora_variant[adapter_name] = variant.replaced
        _set_input_cast(module)


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _why_not(module: LoraLayer, adapter_name: str, variant: DoraLinearVariant) -> str | None:
    """Why a DoRA layer must stay on PEFT's path; None when it need not."""
    if not isinstance(variant, FastDoraLinearVariant) and type(variant) is not DoraLinearVariant:
        return f"{type(variant).__name__.removesuffix('Variant')} has no fast form yet"
    if type(module) is not Linear or not is_dense(module.get_base_layer()):
        return f"{type(module.get_base_layer()).__name__} has no fast form yet"
    if module.lora_bias[adapter_name]:
        return "lora_bias has no fast form"
    return None


def _set_input_cast(module: LoraLayer) -> None:
    """Leaves x in its own dtype where every adapter of the layer takes mixed dtypes."""
    adapters = [*module.lora_A, *module.lora_embedding_A]
    module.cast_input_dtype_enabled = not adapters or not all(
        isinstance(module.lora_variant.get(name), FastDoraLinearVariant) for name in adapters
    )


@torch.no_grad()
def _reset_magnitude_if_untrained(
    module: Linear, adapter_name: str, variant: FastDoraLinearVariant
) -> bool:
    parameter = module.lora_magnitude_vector[adapter_name].weight
    if parameter.dtype != torch.float32:
        parameter.data = parameter.data.float()
    if module.lora_B[adapter_name].weight.any():
        return False
    norm = variant.weight_norm(module, adapter_name)
    if torch.equal(parameter, norm) or ((parameter - norm).abs() > FRESH_MAGNITUDE * norm).any():
        return False
    parameter.copy_(norm)
    return True

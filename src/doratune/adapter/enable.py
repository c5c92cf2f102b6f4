"""Putting the fast layers into a PEFT model, and taking them out again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from peft.tuners.lora.layer import (
    Conv1d,
    Conv2d,
    Conv3d,
    Embedding,
    Linear,
    LoraLayer,
    LoraVariant,
)
from peft.tuners.lora.variants import (
    DoraConv1dVariant,
    DoraConv2dVariant,
    DoraConv3dVariant,
    DoraEmbeddingVariant,
    DoraLinearVariant,
)
from peft.tuners.xlora.layer import XLoraLayer
from torch import Tensor, nn

from doratune.adapter.base_weight import forbid_repacking, why_no_base_weight
from doratune.adapter.conv import FastDoraConvVariant, why_not_conv
from doratune.adapter.embedding import FastDoraEmbeddingVariant
from doratune.adapter.variant import FastDoraLinearVariant

FastDoraVariant = FastDoraLinearVariant | FastDoraEmbeddingVariant | FastDoraConvVariant

FAST_FORMS: dict[type[LoraVariant], type[FastDoraVariant]] = {
    DoraLinearVariant: FastDoraLinearVariant,
    DoraEmbeddingVariant: FastDoraEmbeddingVariant,
    DoraConv1dVariant: FastDoraConvVariant,
    DoraConv2dVariant: FastDoraConvVariant,
    DoraConv3dVariant: FastDoraConvVariant,
}

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

    Magnitudes become float32 parameters. Where an adapter is untrained (its low-rank update is zero and
    the magnitude is the weight norm up to PEFT's rounding) its magnitude is set to the exact norm, after
    which the model's outputs equal the base model's bit for bit. Calling it again is harmless, and is
    needed after adding an adapter or changing base weights.

    Args:
        model: A model with PEFT LoRA layers, before its optimizer is made and, where the base is in
            bitsandbytes' 4-bit format, before its first forward. bitsandbytes is kept from repacking
            such weights from here on, also after `disable_fast_dora`.

    Returns:
        Which layers are fast, and which were left to PEFT and why.

    Raises:
        AdapterError: A 4-bit weight has been repacked for inference already.
    """
    forbid_repacking(model)
    summary = FastDoraSummary()
    num_reset = 0
    for name, module in _lora_layers(model):
        for adapter_name, variant in list(module.lora_variant.items()):
            replaced = variant.replaced if isinstance(variant, FastDoraVariant) else variant
            if type(replaced) not in FAST_FORMS:
                continue
            if reason := _why_not(module):
                _set_variant(module, adapter_name, replaced)
                summary.left_to_peft.setdefault(reason, []).append(name)
                continue
            fast = FAST_FORMS[type(replaced)](replaced)
            _set_variant(module, adapter_name, fast)
            num_reset += _reset_magnitude_if_untrained(module, adapter_name, fast)
            summary.fast.append(name)
        _set_input_cast(module)
    return FastDoraSummary(summary.fast, summary.left_to_peft, num_reset)


def disable_fast_dora(model: nn.Module) -> None:
    """Puts PEFT's own forward back into every layer. Weights and magnitudes are not touched."""
    for _, module in _lora_layers(model):
        for adapter_name, variant in list(module.lora_variant.items()):
            if isinstance(variant, FastDoraVariant):
                _set_variant(module, adapter_name, variant.replaced)
        _set_input_cast(module)


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _why_not(module: LoraLayer) -> str | None:
    """Why a DoRA layer must stay on PEFT's path; None when it need not."""
    layer = module.get_base_layer()
    if isinstance(getattr(module.forward, "__self__", None), XLoraLayer):
        return "X-LoRA runs the layer"
    if isinstance(module, (Conv1d, Conv2d, Conv3d)) and (reason := why_not_conv(layer)):
        return reason
    return why_no_base_weight(layer)


def _set_variant(module: LoraLayer, adapter_name: str, variant: LoraVariant) -> None:
    """Puts a variant in place, and tells PEFT whether it can run in a batch that mixes adapters.

    ``_mixed_batch_forward`` of these kinds of layers calls the variant, but PEFT refuses before it where
    ``use_dora`` says so (0.21.2); nothing else reads that mark. The others would leave DoRA out.
    """
    module.lora_variant[adapter_name] = variant
    calls_variant = isinstance(module, (Linear, Conv1d, Conv2d, Conv3d))
    calls_variant |= type(module).__module__ == "peft.tuners.lora.bnb"
    module.use_dora[adapter_name] = not (calls_variant and isinstance(variant, FastDoraVariant))


def _set_input_cast(module: LoraLayer) -> None:
    """Leaves x in its own dtype where every adapter of the layer takes mixed dtypes."""
    adapters = [*module.lora_A, *module.lora_embedding_A]
    module.cast_input_dtype_enabled = not adapters or not all(
        isinstance(module.lora_variant.get(name), FastDoraLinearVariant) for name in adapters
    )


@torch.no_grad()
def _reset_magnitude_if_untrained(
    module: LoraLayer, adapter_name: str, variant: FastDoraVariant
) -> bool:
    parameter = module.lora_magnitude_vector[adapter_name].weight
    if parameter.dtype != torch.float32:
        parameter.data = parameter.data.float()
    # 28 µs for 11008 x 16, where `any` takes 98.
    if all(factor.abs().sum() != 0 for factor in _factors(module, adapter_name)):
        return False
    # Without an update the norm is that of the base, which has been read once and is not read again.
    base = variant.norm.base(module)
    norm = base.norm_squared_O.sqrt().masked_fill_(base.norm_squared_O <= base.zero_squared, 0)
    norm = norm.to(parameter.device).view_as(parameter)
    if torch.equal(parameter, norm) or ((parameter - norm).abs() > FRESH_MAGNITUDE * norm).any():
        return False
    parameter.copy_(norm)
    return True


def _factors(module: LoraLayer, adapter_name: str) -> tuple[Tensor, Tensor]:
    """Of an embedding PEFT starts A at zero, of the others B."""
    if isinstance(module, Embedding):
        return module.lora_embedding_A[adapter_name], module.lora_embedding_B[adapter_name]
    return module.lora_B[adapter_name].weight, module.lora_A[adapter_name].weight

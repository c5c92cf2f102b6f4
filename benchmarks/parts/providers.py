"""The adapted model of every provider, over one set of frozen weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

import doratune
from benchmarks.parts.factored_dora import FactoredDoraLinear
from benchmarks.parts.fused_lora import FusedLoraLinear
from benchmarks.parts.rows import OURS

PEFT_LORA, PEFT_DORA = "peft LoRA", "peft DoRA"
FUSED_LORA, FACTORED_DORA = "fused LoRA (own)", "dorafactors' method (own)"
EVERYBODY = (PEFT_LORA, PEFT_DORA, OURS, FUSED_LORA, FACTORED_DORA)
PEERS = (PEFT_LORA, PEFT_DORA, FUSED_LORA, FACTORED_DORA)
KINDS = ("lora_a", "lora_b", "magnitude")
_OWN: dict[str, Callable[[LoraLayer], nn.Module]] = {
    FUSED_LORA: FusedLoraLinear,
    FACTORED_DORA: FactoredDoraLinear,
}


def is_dora(provider: str) -> bool:
    """Whether the provider's model is DoRA; otherwise it is LoRA."""
    return "LoRA" not in provider


def adapted(
    base: nn.Module,
    provider: str,
    r: int = 16,
    dropout: float = 0.0,
    targets: str = "all-linear",
    trained: bool = True,
    **options: object,
) -> nn.Module:
    """A model with adapters, in training mode, on the base's own weights.

    Args:
        base: The frozen model.
        provider: Whose layers.
        r: Rank; ``lora_alpha`` is twice that.
        dropout: Of the low-rank branch.
        targets: PEFT's ``target_modules``.
        trained: Whether A, B and magnitude are moved off their start.
        options: For ``get_peft_model``.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM" if hasattr(base, "prepare_inputs_for_generation") else None,
        r=r,
        lora_alpha=2 * r,
        lora_dropout=dropout,
        target_modules=targets,
        use_dora=is_dora(provider),
    )
    torch.manual_seed(0)
    shared = {id(weight): weight for weight in (*base.parameters(), *base.buffers())}
    model = get_peft_model(copy.deepcopy(base, shared), config, **options)
    if provider == OURS:
        summary = doratune.enable_fast_dora(model)
        if summary.left_to_peft:
            raise RuntimeError(f"Not all layers are fast: {summary}")
    if provider in _OWN:
        _replace_layers(model, _OWN[provider])
    if trained:
        move_off_start(model)
    return model.train()


def trainable(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The adapter's parameters by kind, every provider's in the same order."""
    named = sorted((name.lower(), p) for name, p in model.named_parameters() if p.requires_grad)
    kinds = {kind: [p for name, p in named if kind in name] for kind in KINDS}
    return {kind: parameters for kind, parameters in kinds.items() if parameters}


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """What an optimizer gets."""
    return [parameter for group in trainable(model).values() for parameter in group]


@torch.no_grad()
def move_off_start(model: nn.Module) -> None:
    """Draws lora_A and lora_B, moves the magnitude by 2 %: bf16 numbers, exact in every dtype."""
    draw = torch.Generator().manual_seed(0)
    for kind, group in trainable(model).items():
        for parameter in group:
            noise = torch.randn(parameter.shape, generator=draw).to(parameter.device)
            if kind == "magnitude":
                values = parameter.float() * (1 + 0.02 * noise)
            else:
                values = noise * (0.01 if kind == "lora_b" else parameter.shape[1] ** -0.5)
            parameter.copy_(values.bfloat16())


@torch.no_grad()
def copy_adapter(source: nn.Module, target: nn.Module) -> None:
    """Gives one provider's model another's numbers: PEFT rounds its magnitudes to the base's dtype."""
    for mine, theirs in zip(parameters(target), parameters(source), strict=True):
        mine.copy_(theirs)


def _replace_layers(model: nn.Module, make: Callable[[LoraLayer], nn.Module]) -> None:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make(layer))

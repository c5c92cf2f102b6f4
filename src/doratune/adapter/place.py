"""Whether an adapter has its place in a model: every layer, with the right shape, and no layer more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from doratune.adapter.config import is_targeted, peft_config
from doratune.adapter.files import AdapterWeights

_ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def place_problems(
    model: nn.Module, weights: AdapterWeights, stored: Mapping[str, Path] = MappingProxyType({})
) -> Iterator[str]:
    """For what an adapter is refused on this model, its weights not looked at.

    Args:
        model: Without any adapter; it may be on the meta device.
        weights: The adapter.
        stored: Tensors of the model's checkpoint, and where each lies. A linear layer may be there that
            the model does not have: experts were layers before transformers 5, which fuses them.
    """
    modules = dict(model.named_modules())
    kind = type(model).__name__
    only_stored = _stored_shapes(
        stored,
        [
            layer
            for layer, delta in weights.layers.items()
            if layer not in modules and f"{layer}.weight" in stored and not delta.fan_in_fan_out
        ],
    )
    for layer, delta in weights.layers.items():
        module = modules.get(layer)
        expected = delta.weight_shape
        if delta.fan_in_fan_out and not delta.is_embedding:
            expected = expected[::-1]
        if delta.is_parameter or only_stored.get(layer) == expected:
            continue  # parameters were looked at when they were read, together with their base
        if module is None and layer not in only_stored:
            yield (
                f"layer {layer}: the adapter adapts it, and this {kind} does not have it. It was "
                "trained on another base model, or under a transformers that named its layers "
                "otherwise (experts, before 5): then `doratune adapter merge` takes it."
            )
        elif (found := only_stored.get(layer) or _weight_shape(module)) != expected:
            yield (
                f"layer {layer}: the adapter fits a weight of shape {expected}, but this model's has "
                f"{found}. It was trained on another base model."
            )
        elif delta.is_embedding != isinstance(module, nn.Embedding):
            yield (
                f"layer {layer}: the adapter holds tensors of {'an' if delta.is_embedding else 'no'} "
                f"embedding, but this layer is a {type(module).__name__}. It was trained on another "
                "base model."
            )
        elif delta.fan_in_fan_out != (isinstance(module, Conv1D) or delta.is_embedding):
            yield (
                f"layer {layer}: adapter_config.json says fan_in_fan_out "
                f"{str(delta.fan_in_fan_out).lower()}, but this layer is a {type(module).__name__}. "
                "Take the original file."
            )
    config = peft_config(weights.config)
    if config.target_modules == "all-linear":
        return  # PEFT decides when it is put on, and what lacks then is found there
    layers = {name for name, module in modules.items() if isinstance(module, _ADAPTABLE)}
    if only_stored:
        named = {name.removesuffix(".weight") for name in stored if name.endswith(".weight")}
        layers |= named - modules.keys()
    for name in sorted(layers - weights.layers.keys()):
        if is_targeted(config, name):
            yield (
                f"layer {name}: adapter_config.json adapts it, but the file holds nothing for it, so "
                "that PEFT would leave it as it starts. The file is not complete, or it was trained "
                "on another base model."
            )


def copy_problems(
    weights: AdapterWeights, weight_of: Callable[[str], Tensor | None]
) -> Iterator[str]:
    """Base weights in the adapter's file that are not the base's.

    Args:
        weights: The adapter.
        weight_of: The base weight of a layer, or None where it has none.
    """
    for layer, copy in weights.base_copies.items():
        found = weight_of(layer)
        if found is None or not _same(found.cpu(), copy):
            yield (
                f"layer {layer}: the adapter's file holds the base weight it was trained with, and it "
                "is another than this base's. It was trained on another base model, or its embeddings "
                "were resized."
            )


def _same(weight: Tensor, copy: Tensor) -> bool:
    """Whether both are one tensor, which either side may have rounded."""
    return torch.equal(weight, copy.to(weight.dtype)) or torch.equal(weight.to(copy.dtype), copy)


def skeleton(base_path: Path) -> nn.Module | None:
    """The model of a checkpoint without its weights; None where transformers has no class for it."""
    from doratune.base import empty_model  # more than the core packages

    try:
        return empty_model(base_path)
    except (OSError, ValueError, KeyError, ImportError):
        return None


def _stored_shapes(stored: Mapping[str, Path], layers: list[str]) -> dict[str, tuple[int, ...]]:
    """Of the weights of layers; each file is opened once, for experts are many."""
    by_file: defaultdict[Path, list[str]] = defaultdict(list)
    for layer in layers:
        by_file[stored[f"{layer}.weight"]].append(layer)
    shapes: dict[str, tuple[int, ...]] = {}
    for file, held in by_file.items():
        with safe_open(file, framework="pt") as tensors:
            for layer in held:
                shapes[layer] = tuple(tensors.get_slice(f"{layer}.weight").get_shape())
    return shapes


def _weight_shape(module: Any) -> tuple[int, ...]:
    """(out_features, in_features), also of weights that are packed."""
    if isinstance(module, Conv1D):
        return tuple(module.weight.shape[::-1])
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return (module.out_features, module.in_features)
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else ()

"""LoRA on parameters that are no layers, such as the fused experts of a mixture (`target_parameters`).

PEFT's file names the factors by the module that holds the parameter, not by the parameter: the last
adapted parameter of a module has the module's own name, each one before it ``.base_layer`` more. Which
parameter that is, and how its factors are laid out, only the model tells (PEFT 0.21.2, `ParamWrapper`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from doratune.adapter.config import is_targeted, peft_config, rank_of, scaling_of
from doratune.adapter.files import PREFIX, AdapterFolder, LayerDelta
from doratune.adapter.place import skeleton


class Parameter(NamedTuple):
    """A parameter that an adapter names."""

    name: str
    shape: tuple[int, ...]
    is_transposed: bool
    """Stored (experts, in_features, out_features)."""

    @property
    def num_experts(self) -> int:
        """Matrices that lie in it."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def delta(self, config: dict[str, Any], found: dict[str, Tensor]) -> LayerDelta:
        """What is added to it."""
        return LayerDelta(
            found["lora_A"],
            found["lora_B"],
            None,
            scaling_of(config, self.name),
            self.is_transposed,
            num_experts=self.num_experts,
            is_parameter=True,
        )


def targeted_parameters(config: dict[str, Any], base: nn.Module | Path) -> dict[str, Parameter]:
    """The adapted parameters of a base, by the names of their factors in an adapter's file.

    Args:
        config: Of the adapter.
        base: A model without any adapter, or the folder of one; a folder whose model transformers has
            no class for has none.
    """
    targets = config.get("target_parameters") or []
    found: dict[str, Parameter] = {}
    if not targets:
        return found
    model = base if isinstance(base, nn.Module) else skeleton(base)
    for module_name, module in () if model is None else model.named_modules():
        is_transposed = getattr(module, "is_transposed", False)
        own = [
            Parameter(name, tuple(parameter.shape), is_transposed and parameter.ndim == 3)
            for name, parameter in module.named_parameters(module_name, recurse=False)
            if any(f".{name}".endswith(f".{target}") for target in targets)
        ]
        for depth, parameter in enumerate(reversed(own)):
            found[module_name + ".base_layer" * depth] = parameter
    return found


def parameter_problems(folder: AdapterFolder, parameters: dict[str, Parameter]) -> Iterator[str]:
    """For what an adapter with `target_parameters` is refused on a base.

    Args:
        folder: The adapter, which has no other problem.
        parameters: Those of the base that it adapts.
    """
    for key, parameter in parameters.items():
        if key not in folder.parts:
            yield (
                f"parameter {parameter.name}: adapter_config.json adapts it, but the file holds no "
                f"{PREFIX}{key}.lora_A.weight, so that PEFT would leave it as it starts. The file is "
                "not complete, or it was trained on another base model."
            )
    config = peft_config(folder.config)
    for key, found in folder.parts.items():
        if key in parameters:
            problem = _misfit(folder.config, parameters[key], found)
            if problem:
                yield f"parameter {parameters[key].name}: {problem}"
        elif not is_targeted(config, key):
            yield (
                f"layer {key}: it adapts a parameter there (target_parameters "
                f"{folder.config['target_parameters']!r}), and the base has none of these in such a "
                "place, or transformers has no class for its model. It was trained on another base "
                "model, or loaded there as another class."
            )


def _misfit(config: dict[str, Any], parameter: Parameter, found: dict[str, Tensor]) -> str | None:
    expected = rank_of(config, parameter.name) * parameter.num_experts
    num_rows = found["lora_A"].shape[0]
    if num_rows != expected:
        return (
            f"lora_A has {num_rows} rows; expected {expected}, the rank of adapter_config.json for "
            f"each of {parameter.num_experts} experts. It was trained on another base model, or "
            "config and weights are not of one training."
        )
    shape = parameter.delta(config, found).weight_shape
    if shape != parameter.shape:
        return (
            f"the adapter fits a weight of shape {shape}, but this model's has {parameter.shape}. It "
            "was trained on another base model."
        )
    return None

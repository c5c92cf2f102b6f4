"""The weights of a checkpoint and of an adapter, brought together by tensor name."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from doratune.adapter import LayerDelta, read_adapter
from doratune.adapter.place import copy_problems, skeleton
from doratune.adapter.tuned import check_base
from doratune.base import tensor_files
from doratune.errors import AdapterError, ModelError
from doratune.ship.merging.convolutions import check_convolutions
from doratune.ship.merging.parameters import Change, stored_changes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class Plan(NamedTuple):
    """What a merged checkpoint is made of, by the merged checkpoint's own tensor names."""

    method: Literal["dora", "lora", "full"]
    files: dict[str, Path]
    """Every tensor, and the safetensors file it is taken from."""
    deltas: dict[str, LayerDelta]
    """Weights that the adapter changes."""
    layers: dict[str, str]
    """Layer of each of these weights."""
    saved: dict[str, Tensor]
    """Tensors that the adapter holds whole."""
    untied: dict[str, str] = {}
    """Tensors that the base does not hold, as it ties them to another: that one. The adapter changes one
    of the two, so the merged model has both."""
    base_weight: Callable[[str], Tensor] | None = None
    """Makes the base tensor of an adapted weight, by the name here; None takes it as it is stored."""
    made: frozenset[str] = frozenset()
    """Other tensors that it makes too."""

    def base_name(self, name: str) -> str:
        """What a tensor is called in the file it is taken from."""
        return self.untied.get(name, name)

    def stored(self, name: str) -> Tensor:
        """A tensor as the base stores it."""
        with safe_open(self.files[name], framework="pt") as tensors:
            return tensors.get_tensor(self.base_name(name))

    def unchanged(self, name: str) -> Tensor:
        """A tensor that the adapter does not change."""
        return self.weight(name) if name in self.made else self.stored(name)

    def weight(self, name: str) -> Tensor:
        """The base tensor of an adapted weight."""
        return self.stored(name) if self.base_weight is None else self.base_weight(name)


def plan_merge(base_path: Path, adapter_path: Path) -> Plan:
    """Finds the base tensor of everything that the adapter holds.

    A fully fine-tuned model is an adapter folder without ``adapter_config.json``; its plan takes
    every tensor from there.

    Raises:
        AdapterError: The adapter is incomplete, belongs to another base, or holds something that
            has no place in this base.
        ModelError: The weights of base or fully fine-tuned model are missing or damaged.
    """
    check_base(base_path, adapter_path)
    if not (adapter_path / "adapter_config.json").exists():
        return Plan("full", tensor_files(adapter_path), {}, {}, {})
    adapter = read_adapter(adapter_path, base_path)
    check_convolutions(base_path, adapter_path, adapter)
    plan = Plan(adapter.method, tensor_files(base_path), {}, {}, {}, {})
    ties = tied_names(base_path)
    parameters = {name: delta for name, delta in adapter.layers.items() if delta.is_parameter}
    for change in stored_changes(base_path, adapter_path, plan.files, parameters):
        _add(plan, change, adapter_path)
    for layer, delta in adapter.layers.items():
        if not delta.is_parameter:
            name = _find(f"{layer}.weight", plan, ties, adapter_path)
            _add(plan, Change(name, layer, delta), adapter_path)
    for wanted, whole in adapter.saved_modules.items():
        name = _find(wanted, plan, ties, adapter_path)
        _add(plan, Change(name, wanted, whole), adapter_path)
    untie(plan, ties)
    names = {layer: name for name, layer in plan.layers.items()}
    for problem in copy_problems(adapter, lambda layer: plan.stored(names[layer])):
        raise AdapterError(f"{adapter_path}, {problem}")
    return plan


def _add(plan: Plan, change: Change, adapter_path: Path) -> None:
    if change.name in plan.layers or change.name in plan.saved:
        raise AdapterError(
            f"{adapter_path} changes the base tensor {change.name} twice; expected once. "
            "Are there two adapters in one file?"
        )
    if isinstance(change.new, Tensor):
        plan.saved[change.name] = change.new
    else:
        plan.deltas[change.name], plan.layers[change.name] = change.new, change.layer


def _find(wanted: str, plan: Plan, ties: dict[str, list[str]], adapter_path: Path) -> str:
    """The merged model's name for a tensor: GPT-2's checkpoints leave out the model's own prefix."""
    for name in (wanted, wanted.partition(".")[2]):
        if name in plan.files:
            return name
    for tied in ties.get(wanted, ()):
        for name in (tied, tied.partition(".")[2]):
            if name in plan.files and plan.base_name(name) == name:
                _add_untied(plan, wanted, name)
                return wanted
    near = get_close_matches(wanted, plan.files, n=1, cutoff=0)
    raise AdapterError(
        f"{adapter_path} adapts {wanted}, which the base does not hold; the nearest name there is "
        f"{near[0] if near else 'none'}. Was it trained on another base?"
    )


def untie(plan: Plan, ties: dict[str, list[str]]) -> None:
    """Adds what was tied to a changed tensor, and is not changed itself, as it was."""
    for changed in [*plan.deltas, *plan.saved]:
        model_names = [name for name in ties if changed in (name, name.partition(".")[2])]
        for other in {tied for name in model_names for tied in ties[name]}:
            if not {other, other.partition(".")[2]} & plan.files.keys():
                _add_untied(plan, other, changed)


def _add_untied(plan: Plan, name: str, source: str) -> None:
    plan.files[name] = plan.files[source]
    plan.untied[name] = plan.base_name(source)


def tied_names(base_path: Path) -> dict[str, list[str]]:
    """For every parameter that shares its tensor with others, their names.

    Empty where transformers has no class for the model.
    """
    model = skeleton(base_path)
    groups: defaultdict[int, list[str]] = defaultdict(list)
    for name, parameter in () if model is None else model.named_parameters(remove_duplicate=False):
        groups[id(parameter)].append(name)
    return {
        name: [other for other in names if other != name]
        for names in groups.values()
        if len(names) > 1
        for name in names
    }


def read_tensor(files: dict[str, Path], name: str) -> Tensor:
    """Reads one tensor of a checkpoint."""
    with safe_open(files[name], framework="pt") as tensors:
        return tensors.get_tensor(name)


def stored_dtype(path: Path) -> str:
    """The dtype of most of a checkpoint's weights.

    Raises:
        ModelError: It is none that a merged model can have: the base is quantised.
    """
    counts: Counter[str] = Counter()
    files = tensor_files(path)
    for file in set(files.values()):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a handle of safetensors cannot be iterated)
                part = tensors.get_slice(name)
                counts[part.get_dtype()] += math.prod(part.get_shape())
    found = counts.most_common(1)[0][0] if counts else "nothing"
    if found not in _STORED:
        raise ModelError(
            f"Most weights of {path} are stored as {found}; merging needs F32, BF16 or F16. "
            "Merge into the unquantised model."
        )
    return _STORED[found]

"""Where the parameters of a model lie in its checkpoint, and what is added to each tensor there.

Transformers fuses the experts of many models when it loads them: of one tensor for each expert and
projection it makes one parameter, which adapters then adapt (`target_parameters`). Each stored tensor
gets the part of ``B A`` that belongs to it, a plain LoRA of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from doratune.adapter import LayerDelta
from doratune.adapter.place import skeleton
from doratune.errors import AdapterError
from doratune.ship.merging.tensor_file import read_header
from doratune.ship.merging.weight import stored_factors


class Change(NamedTuple):
    """What becomes of one tensor of a checkpoint."""

    name: str
    layer: str
    """Or the parameter."""
    new: LayerDelta | Tensor
    """What is added to it, or a tensor that takes its place."""


class _Sources(NamedTuple):
    """The stored tensors that transformers makes one parameter of."""

    converter: Any
    """A `WeightConverter`; None where there is one tensor, which is the parameter."""
    names: dict[str, list[str]]
    """By the converter's pattern, in the order in which they are put together."""


def stored_changes(
    base_path: Path,
    adapter_path: Path,
    files: Mapping[str, Path],
    deltas: Mapping[str, LayerDelta],
) -> Iterator[Change]:
    """Finds the tensors of a checkpoint that adapted parameters are made of.

    Args:
        base_path: Folder of the base model, which transformers has a class for.
        adapter_path: For messages.
        files: Tensors of the checkpoint, and where each lies.
        deltas: By parameter.

    Raises:
        AdapterError: A parameter is not in the checkpoint, or is made of it in another way than by
            putting experts side by side.
    """
    if not deltas:
        return
    sources = _sources(base_path, files)
    headers = {file: read_header(file) for file in set(files.values())}
    shapes = {name: headers[file][name].shape for name, file in files.items()}
    for parameter, delta in deltas.items():
        if parameter not in sources:
            near = sorted(name for name in files if name.startswith(parameter))
            near = near or get_close_matches(parameter, files, n=1, cutoff=0)
            raise AdapterError(
                f"{adapter_path} adapts the parameter {parameter}, and transformers makes it of no "
                f"tensor of the base; the nearest names there: {', '.join(near) or 'none'}. Was it "
                "trained on another base, or is this one stored quantised? Give it in 16 or 32 bits."
            )
        changes = list(_split(parameter, delta, sources[parameter], shapes))
        if not changes:
            converter, names = sources[parameter]
            stored = [name for group in names.values() for name in group]
            steps = ", ".join(map(str, converter.operations)) if converter else "nothing"
            raise AdapterError(
                f"{adapter_path} adapts the parameter {parameter} of {delta.num_experts} experts, which "
                f"transformers makes of {len(stored)} tensors such as {stored[0]} by {steps}; "
                "expected the parameter itself, or one tensor for each expert and projection. Load the "
                "base with transformers, save it with save_original_format=False, and merge into that."
            )
        yield from changes


def _sources(base_path: Path, files: Mapping[str, Path]) -> dict[str, _Sources]:
    """By parameter, as `from_pretrained` assigns them (transformers 5.23, `core_model_loading`)."""
    model: Any = skeleton(base_path)
    state, prefix = model.state_dict(), model.base_model_prefix
    steps = get_model_conversion_mapping(model)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    by_pattern = {pattern: step for step in converters for pattern in step.source_patterns}
    found: dict[str, _Sources] = {}
    for name in sorted(files, key=dot_natural_key):
        parameter, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if parameter not in state and name in state:
            parameter, pattern = rename_source_key(name, [], [], prefix, state)
        sources = found.setdefault(parameter, _Sources(by_pattern.get(pattern), defaultdict(list)))
        sources.names[pattern or ""].append(name)
    return found


def _split(
    parameter: str, delta: LayerDelta, sources: _Sources, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Change]:
    """Nothing where the parameter is not made of its experts."""
    converter, names = sources
    if converter is None and list(map(len, names.values())) == [1]:
        yield Change(names[""][0], parameter, delta)
    if not _puts_side_by_side(converter) or names.keys() != set(converter.source_patterns):
        return
    groups = [names[pattern] for pattern in converter.source_patterns]
    left_ERK, right_EKC = stored_factors(delta)
    heights = [shapes[group[0]][0] for group in groups]
    if sum(heights) != left_ERK.shape[1] or {len(g) for g in groups} != {delta.num_experts}:
        return
    start = 0
    for group, height in zip(groups, heights, strict=True):
        for expert, name in enumerate(group):
            A, B = right_EKC[expert], left_ERK[expert, start : start + height]
            yield Change(name, parameter, LayerDelta(A, B, None, delta.scaling, False))
        start += height


def _puts_side_by_side(converter: Any) -> bool:
    """Whether the experts of each projection are stacked, and then the projections' rows joined."""
    if converter is None:
        return False
    steps = [(type(step), step.dim) for step in converter.operations if hasattr(step, "dim")]
    joins = [(MergeModulelist, 0), (Concatenate, 1)]
    return len(steps) == len(converter.operations) and steps in (joins[:1], joins)

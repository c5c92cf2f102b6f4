"""Several adapters merged into one base.

*Weighted*: all were trained on the base itself, and ``W' = W + sum_i w_i (W'_i - W)`` with every
``W'_i = g_i (W + s_i B_i A_i)`` and every g_i computed against W alone. *In turn*: each was trained on
the base merged with those before it, so that its norms are those of that model.
"""

from __future__ import annotations

import math
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from doratune import __version__
from doratune.adapter.config import CONFIG
from doratune.adapter.origin import file_digests, read_origin
from doratune.base import fingerprint
from doratune.errors import AdapterError, ConfigError
from doratune.record.adapters import CombinedFile, MergedParent
from doratune.record.files import replacing
from doratune.ship.merging.checkpoint import DTYPES, Plan, plan_merge, stored_dtype
from doratune.ship.merging.merge import Merged, merge
from doratune.ship.merging.model_folder import (
    RECORD,
    copy_others,
    new_folder,
    set_config,
    steps_folder,
)
from doratune.ship.merging.row_blocks import Part
from doratune.ship.merging.write import lay_out, write_weights


class Weighted(NamedTuple):
    """An adapter, and how much of its change is wanted."""

    path: Path
    weight: float = 1.0


def parse_weighted(text: str, in_turn: bool = False) -> Weighted:
    """An adapter of the command line: a folder, or a folder and its weight after ``=``.

    Raises:
        ConfigError: What follows ``=`` is no number, or there are no weights.
    """
    path, equals, number = text.rpartition("=")
    if not equals or Path(text).is_dir():
        return Weighted(Path(text))
    if in_turn:
        raise ConfigError(
            f"{text!r} gives a weight, and adapters merged in turn have none: each was trained on "
            "those before it as they are. Leave out the weight, or --in-turn."
        )
    try:
        return Weighted(Path(path), float(number))
    except ValueError:
        raise ConfigError(
            f"{text!r} gives {number!r} as weight; expected a number, such as {path}=0.5."
        ) from None


def merged_dtype(base_path: Path, dtype: str) -> str:
    """The precision asked for; of ``auto`` that of the base.

    Raises:
        ConfigError: There is no such precision.
        ModelError: The base is quantised.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ConfigError(f"--dtype is {dtype!r}; expected auto, {', '.join(DTYPES)}.")
    return stored_dtype(base_path) if dtype == "auto" else dtype


@torch.no_grad()
def merge_weighted(
    base_path: Path, adapters: Sequence[Weighted], target: Path, dtype: str
) -> Merged:
    """Writes ``W + sum_i w_i (W'_i - W)``, in float32 and rounded once, with a record of the parents.

    Args:
        base_path: The base that all were trained on.
        adapters: At least one.
        target: Folder to write; replaced if it exists.
        dtype: Precision of all weights.

    Raises:
        ConfigError: A weight is zero or not finite, or no adapter is given.
        AdapterError: One is incomplete, belongs to another base, was trained over a quantised one, is
            a fully fine-tuned model, or holds whole what another changes too.
        ModelError: The base is damaged or quantised, or a weight is too large for ``dtype``.
        StorageError: There is too little space, or the folder cannot be written.
    """
    _check_given([adapter.path for adapter in adapters])
    for path, weight in adapters:
        if not math.isfinite(weight) or weight == 0:
            raise ConfigError(
                f"The weight of {path} is {weight:g}; expected a finite number other than 0, which "
                "would leave the adapter out."
            )
    plans = [plan_merge(base_path, adapter.path) for adapter in adapters]
    _check_whole(adapters, plans)
    parts: defaultdict[str, list[Part]] = defaultdict(list)
    for (path, weight), plan in zip(adapters, plans, strict=True):
        own = {name: [Part(delta, weight)] for name, delta in plan.deltas.items()}
        lay_out(plan, own, path, DTYPES[dtype])  # refuses what does not fit, by the adapter's name
        for name, part in own.items():
            parts[name] += part
    joint = _joint(adapters, plans)
    layouts = lay_out(joint, parts, adapters[0].path, DTYPES[dtype])
    size = sum(layout.num_bytes for layout in layouts.values())
    with new_folder(target, size) as folder:
        copy_others(base_path, folder)
        set_config(folder / "config.json", dtype, untied=bool(joint.untied))
        write_weights(joint, parts, layouts, folder, DTYPES[dtype])
        _record("weighted", base_path, adapters, plans, dtype).write(folder / RECORD)
    num_merged = len(parts) + len(joint.saved)
    return Merged(joint.method, num_merged, len(joint.files) - num_merged, size)


def merge_in_turn(base_path: Path, adapters: Sequence[Path], target: Path, dtype: str) -> Merged:
    """Merges the first adapter into the base, the second into the result, and so on.

    Each step is rounded to ``dtype`` as the model was that the next adapter was trained on: its
    fingerprint shows whether it is that one.

    Args:
        base_path: The base of the first adapter.
        adapters: In the order in which they were trained.
        target: Folder to write; replaced if it exists.
        dtype: Precision of all weights, after each step.

    Raises:
        ConfigError: No adapter is given.
        AdapterError: One is incomplete, was not trained on what those before it make, or was trained
            over a quantised base.
        ModelError: The base is damaged or quantised, or a weight is too large for ``dtype``.
        StorageError: There is too little space, or a folder cannot be written.
    """
    _check_given(adapters)
    plans = []
    with steps_folder(target) as steps:
        before = base_path
        for number, adapter in enumerate(adapters, 1):
            plans.append(plan_merge(before, adapter))
            merged = merge(before, adapter, steps / str(number), dtype)
            if number > 1:
                shutil.rmtree(before)
            before = steps / str(number)
        weighted = [Weighted(adapter) for adapter in adapters]
        _record("in turn", base_path, weighted, plans, dtype).write(before / RECORD)
        with replacing(target) as folder:
            before.rename(folder)
    return merged


def _check_given(adapters: Sequence[Path]) -> None:
    if not adapters:
        raise ConfigError("No adapter is given; expected one at least.")
    for path in adapters:
        if not (path / CONFIG).exists():
            raise AdapterError(
                f"{path} has no {CONFIG}: it is no adapter. A fully fine-tuned model has no W' beside "
                "W that could be weighed, or be put on another model. Give LoRA or DoRA adapters."
            )
        origin = read_origin(path)
        if origin is not None and origin.quantize:
            raise AdapterError(
                f"{path} was trained over a quantised base ({origin.quantize}): its norms are those of "
                "other weights than the base's own. Merge it alone, with a choice of what onto."
            )


def _check_whole(adapters: Sequence[Weighted], plans: Sequence[Plan]) -> None:
    """Refuses tensors that one adapter holds whole and another changes too."""
    for path, plan in zip((adapter.path for adapter in adapters), plans, strict=True):
        for other, beside in zip((adapter.path for adapter in adapters), plans, strict=True):
            both = plan.saved.keys() & (beside.saved.keys() | beside.deltas.keys())
            if beside is not plan and both:
                raise AdapterError(
                    f"{path} holds {min(both)} whole, and {other} changes it too: two trainings of one "
                    "tensor, of which neither knew the other. Leave one of the adapters out."
                )


def _joint(adapters: Sequence[Weighted], plans: Sequence[Plan]) -> Plan:
    """One plan for all, without their deltas."""
    joint = Plan(
        "dora" if any(plan.method == "dora" for plan in plans) else "lora", {}, {}, {}, {}, {}
    )
    for (_, weight), plan in zip(adapters, plans, strict=True):
        joint.files.update(plan.files)
        joint.layers.update(plan.layers)
        joint.untied.update(plan.untied)
        for name, saved in plan.saved.items():
            W = plan.stored(name)
            joint.saved[name] = (
                saved if weight == 1 else torch.lerp(W.float(), saved.float(), weight)
            )
    return joint


def _record(
    how: Literal["weighted", "in turn"],
    base_path: Path,
    adapters: Sequence[Weighted],
    plans: Sequence[Plan],
    dtype: str,
) -> CombinedFile:
    return CombinedFile(
        how=how,
        base=base_path.name,
        base_fingerprint=fingerprint(base_path),
        dtype=dtype,
        doratune=__version__,
        parents=[
            MergedParent(
                name=path.name,
                method=plan.method,
                weight=weight,
                files=file_digests(path),
            )
            for (path, weight), plan in zip(adapters, plans, strict=True)
        ],
    )

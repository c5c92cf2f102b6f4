"""The weights of a merged checkpoint: every file's place for every tensor, then tensor after tensor."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch

from doratune.adapter import LayerDelta
from doratune.base.tensors import INDEX, WEIGHTS
from doratune.errors import AdapterError, ModelError, StorageError
from doratune.progress import track
from doratune.ship.merging.checkpoint import Plan
from doratune.ship.merging.checkpoint_file import CheckpointFile, StoredRows, TensorRows
from doratune.ship.merging.row_blocks import Part, cast_rows, merge_rows
from doratune.ship.merging.tensor_file import CODES, FLOATS, Layout, Stored, plan_file, read_header

Parts = Mapping[str, Sequence[Part]]
"""What adapters change of each tensor."""


def lay_out(plan: Plan, parts: Parts, adapter_path: Path, dtype: torch.dtype) -> dict[Path, Layout]:
    """Decides where every tensor will lie, and checks all of them, before anything is written.

    Returns:
        By the file that the tensors are taken from; the new one has its name.

    Raises:
        AdapterError: A base weight has another shape than the adapter was made for.
        ModelError: One is quantised.
    """
    tensors: defaultdict[Path, dict[str, Stored]] = defaultdict(dict)
    headers = {file: read_header(file) for file in set(plan.files.values())}
    for name, file in plan.files.items():
        stored = headers[file][plan.base_name(name)]
        for part in parts.get(name, ()) if plan.base_weight is None else ():
            _check(plan.layers[name], stored.dtype, stored.shape, part.delta, adapter_path)
        if name in parts:
            stored = _as_float(parts[name][0].delta.weight_shape, dtype)
        elif name in plan.saved:
            _check_saved(name, tuple(plan.saved[name].shape), stored.shape, adapter_path)
            stored = _as_float(stored.shape, dtype)
        elif stored.dtype in FLOATS:
            stored = _as_float(stored.shape, dtype)
        tensors[file][name] = stored
    return {file: plan_file(tensors[file]) for file in sorted(tensors)}


def _as_float(shape: tuple[int, ...], dtype: torch.dtype) -> Stored:
    return Stored(CODES[dtype], shape, 0, math.prod(shape) * dtype.itemsize)


def write_weights(
    plan: Plan, parts: Parts, layouts: dict[Path, Layout], folder: Path, dtype: torch.dtype
) -> None:
    """Writes all files and the index.

    In memory is a block of rows and the adapters; also one tensor where ``plan.base_weight`` makes it.

    Raises:
        ModelError: A weight is too large for ``dtype``.
        StorageError: A file cannot be written.
    """
    names = [(file, name) for file, layout in layouts.items() for name in layout.tensors]
    bar = track(names, "Merging", total=len(names))
    for file, group in groupby(bar, key=itemgetter(0)):
        held = read_header(file)
        try:
            with (
                file.open("rb") as base,
                CheckpointFile(folder / file.name, layouts[file]) as out,
            ):
                for _, name in group:
                    stored = held[plan.base_name(name)]
                    _write_tensor(name, plan, parts, stored, base.fileno(), out, dtype)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{file.name} of the merged model could not be written to {folder.parent}: "
                f"{error}. Nothing was left behind."
            ) from error
    if [file.name for file in layouts] != [WEIGHTS]:
        index = {
            "metadata": {"total_size": sum(layout.num_bytes for layout in layouts.values())},
            "weight_map": {name: file.name for name, file in sorted(plan.files.items())},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_tensor(
    name: str,
    plan: Plan,
    parts: Parts,
    stored: Stored,
    base: int,
    out: CheckpointFile,
    dtype: torch.dtype,
) -> None:
    target, write = out.layout.tensors[name], out.writer_of(name)
    size = math.prod(target.shape)
    if name in parts:
        rows = (
            StoredRows(base, stored, plan.files[name])
            if plan.base_weight is None
            else TensorRows(plan.base_weight(name))
        )
        merge_rows(name, rows, parts[name], dtype, write)
    elif name in plan.saved:
        cast_rows(name, TensorRows(plan.saved[name]), size, dtype, write)
    elif name in plan.made and plan.base_weight is not None:
        cast_rows(name, TensorRows(plan.base_weight(name)), size, dtype, write)
    elif stored.dtype == target.dtype:
        out.copy(name, base, stored)
    else:
        cast_rows(name, StoredRows(base, stored, plan.files[name]), size, dtype, write)


def check_fit(layer: str, weight: torch.Tensor, delta: LayerDelta, adapter_path: Path) -> None:
    """Refuses a base weight that the adapter was not made for.

    Raises:
        AdapterError: The shapes differ.
        ModelError: The weight is quantised.
    """
    dtype = CODES.get(weight.dtype, str(weight.dtype).removeprefix("torch."))
    _check(layer, dtype, tuple(weight.shape), delta, adapter_path)


def _check(
    layer: str, dtype: str, shape: tuple[int, ...], delta: LayerDelta, adapter_path: Path
) -> None:
    if dtype not in FLOATS:
        raise ModelError(
            f"The base weight of {layer} is stored as {dtype}; merging needs float32, "
            "bfloat16 or float16. Merge into the unquantised model."
        )
    if shape != delta.weight_shape:
        raise AdapterError(
            f"{adapter_path}, layer {layer}: the adapter fits a weight of shape "
            f"{delta.weight_shape}, but the base's has {shape}. It was trained on another base."
        )


def _check_saved(
    name: str, shape: tuple[int, ...], base_shape: tuple[int, ...], adapter_path: Path
) -> None:
    if shape != base_shape:
        raise AdapterError(
            f"{adapter_path} holds {name} whole, with shape {shape}; the base's has {base_shape}. "
            "It was trained on another base."
        )

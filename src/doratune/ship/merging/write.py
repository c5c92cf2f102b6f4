"""The weights of a merged checkpoint: every file's place for every tensor, then tensor after tensor."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock

import torch

from doratune.adapter import LayerDelta
from doratune.base.tensors import INDEX, WEIGHTS
from doratune.errors import AdapterError, ModelError, StorageError
from doratune.progress import progress_bar
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

    In memory are the adapters and a block of rows for each thread; also one tensor where
    ``plan.base_weight`` makes it.

    Raises:
        ModelError: A weight is too large for ``dtype``.
        StorageError: A file cannot be written.
    """
    total = sum(len(layout.tensors) for layout in layouts.values())
    with progress_bar() as bar, _workers() as pool:
        task = bar.add_task("Merging", total=total, note="")
        for file, layout in layouts.items():
            try:
                _write_file(
                    plan, parts, file, layout, folder, dtype, pool, lambda: bar.advance(task)
                )
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


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as PyTorch takes, none of which divides its work: a block is too small for it.

    The BLAS has a count of threads for each thread that calls it, so each sets its own.
    """
    count = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            count, "merging", initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(count)


def _write_file(
    plan: Plan,
    parts: Parts,
    file: Path,
    layout: Layout,
    folder: Path,
    dtype: torch.dtype,
    pool: ThreadPoolExecutor,
    advance: Callable[[], None],
) -> None:
    held = read_header(file)
    making = Lock()
    with file.open("rb") as base, CheckpointFile(folder / file.name, layout) as out:

        def write(name: str) -> None:
            # Weights that are made lie in memory whole: one at a time.
            with making if plan.base_weight is not None else nullcontext(), torch.no_grad():
                stored = held[plan.base_name(name)]
                _write_tensor(name, plan, parts, stored, base.fileno(), out, dtype)

        jobs = [pool.submit(write, name) for name in layout.tensors]
        try:
            for job in as_completed(jobs):
                job.result()
                advance()
        finally:
            for job in jobs:
                job.cancel()
            wait(jobs)


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

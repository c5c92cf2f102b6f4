"""Base and adapter become one ordinary checkpoint, block by block, without any model class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch

from doratune.record.files import replacing
from doratune.record.schemas import Onto
from doratune.ship.merging.checkpoint import DTYPES
from doratune.ship.merging.model_folder import copy_others, new_folder, set_config, steps_folder
from doratune.ship.merging.onto import check_onto, plan_onto, requantize
from doratune.ship.merging.row_blocks import Part
from doratune.ship.merging.write import lay_out, write_weights


class Merged(NamedTuple):
    """What was written."""

    method: Literal["dora", "lora", "full"]
    num_merged_tensors: int
    """Tensors that the adapter changed; all of them after full fine-tuning."""
    num_copied_tensors: int
    num_bytes: int
    """Size of the weights."""


@torch.no_grad()
def merge(
    base_path: Path, adapter_path: Path, target: Path, dtype: str, onto: Onto | None = None
) -> Merged:
    """Writes ``W' = (m / n) (W + scaling B A)`` for every adapted layer, everything else as it was.

    Computed in float32 and rounded once, with a block of rows in memory. ``target`` appears whole or
    not at all, and is a checkpoint that plain transformers loads.

    Args:
        base_path: Folder of the base model.
        adapter_path: Adapter in PEFT's format, or a fully fine-tuned model.
        target: Folder to write; replaced if it exists.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``: precision of all weights.
        onto: Which weights of a base that training quantised, and only then.

    Raises:
        ConfigError: The base was quantised in training and ``onto`` is None, or the other way round.
        AdapterError: The adapter is incomplete, was trained on another base or does not fit.
        ModelError: The base is damaged or quantised, or a weight is too large for ``dtype``.
        StorageError: There is too little space, or the folder cannot be written.
    """
    if onto == "requantize":
        return _merge_requantized(base_path, adapter_path, target, dtype)
    plan = plan_onto(base_path, adapter_path, onto)
    parts = {name: [Part(delta)] for name, delta in plan.deltas.items()}
    layouts = lay_out(plan, parts, adapter_path, DTYPES[dtype])
    size = sum(layout.num_bytes for layout in layouts.values())
    with new_folder(target, size) as folder:
        copy_others(base_path, folder)
        if plan.method == "full":
            copy_others(adapter_path, folder)
        set_config(folder / "config.json", dtype, untied=bool(plan.untied))
        write_weights(plan, parts, layouts, folder, DTYPES[dtype])
    num_merged = len(plan.files) if plan.method == "full" else len(plan.deltas) + len(plan.saved)
    return Merged(plan.method, num_merged, len(plan.files) - num_merged, size)


def _merge_requantized(base_path: Path, adapter_path: Path, target: Path, dtype: str) -> Merged:
    quantize = check_onto(adapter_path, "requantize")
    assert quantize is not None
    with steps_folder(target) as beside:
        dense = beside / "dense"
        merged = merge(base_path, adapter_path, dense, dtype, "dequantized")
        with replacing(target) as folder:
            folder.mkdir()
            size = requantize(dense, folder, quantize)
    return merged._replace(num_bytes=size)

"""The three things an adapter of a quantised base can be merged onto, measured side by side.

Only `dequantized` is the trained model, and must be it within what rounding explains. Over a base in 8
bits that is said of the weights alone: LLM.int8 rounds what a layer is given too, which no merged
checkpoint does.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doratune.adapter.base_weight import forbid_repacking
from doratune.adapter.tuned import load_tuned
from doratune.base import load_base, tensor_files
from doratune.progress import console
from doratune.recipe.schema import Recipe
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import ONTO, MergeFile, Onto, OntoFidelity, TaskCost, VerifyFile
from doratune.ship.merging.merge import merge
from doratune.ship.merging.model_folder import steps_folder
from doratune.ship.merging.onto import quantized_in_training
from doratune.ship.task import Task, task_cost
from doratune.ship.verification.compare_logits import compare_logits
from doratune.ship.verification.verify import verify


def verify_onto(
    run: RunFolder, recipe: Recipe, base_path: Path, prompts: Sequence[list[int]], task: Task | None
) -> VerifyFile:
    """Compares ``merged/``, and merges onto the other two, with base and adapter as trained.

    The others are made for it and deleted again: that much space and time it takes.

    Args:
        run: A run whose base training quantised, merged.
        recipe: Its recipe.
        base_path: Folder of the base model.
        prompts: Golden inputs, token ids.
        task: The test questions, where they are to be asked.

    Returns:
        Figures of ``merged/``; of all three in ``fidelity``.

    Raises:
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: A model is damaged or cannot be loaded.
        StorageError: The merged checkpoint lacks a tensor, or there is too little space.
    """
    merged = MergeFile.read(run.merge)
    assert merged.onto is not None
    fidelity: dict[Onto, OntoFidelity] = {}
    sidecar = load_tuned(base_path, run.adapter, "float32")
    with steps_folder(run.path / "onto") as steps:
        for onto in ONTO:
            console.print(f"Comparing the merge onto {onto} ...")
            path = run.merged if onto == merged.onto else steps / onto
            if path != run.merged:
                merge(base_path, run.adapter, path, merged.dtype, onto)
            figures = compare_logits(sidecar, _load(path, "float32"), prompts)
            size = sum(file.stat().st_size for file in set(tensor_files(path).values()))
            cost = None if task is None else _ask(run, recipe, base_path, path, task, onto)
            fidelity[onto] = OntoFidelity(num_bytes=size, **figures._asdict(), task=cost)
            shutil.rmtree(steps / onto, ignore_errors=True)
    del sidecar
    gc.collect()  # PEFT's models hold themselves
    told = fidelity[merged.onto].model_dump(exclude={"num_bytes", "task"})
    common: dict[str, Any] = {"onto": merged.onto, "fidelity": fidelity}
    if merged.onto != "dequantized":
        return VerifyFile(
            passed=True,
            dtype=merged.dtype,
            num_prompts=len(prompts),
            **told,
            thresholds={},
            failures=[],
            **common,
        )
    # However right the weights are, logits over int8 are others.
    weights_only = quantized_in_training(run.adapter) == "int8"
    result = verify(
        base_path, run.adapter, run.merged, merged.dtype, prompts, merged.onto, weights_only
    )
    return result.model_copy(update=common)


def _ask(
    run: RunFolder, recipe: Recipe, base_path: Path, merged: Path, task: Task, onto: Onto
) -> TaskCost:
    dtype = recipe.model.dtype
    before = task.trained(base_path, run.adapter, dtype)
    after = task.ask(_load(merged, dtype), f"Asking the merge onto {onto}")
    gc.collect()
    return task_cost(f"merged onto {onto}", before, after)


def _load(path: Path, dtype: str) -> Any:
    model = load_base(path, dtype)
    forbid_repacking(model)  # the same arithmetic on every CPU
    return model

"""The two stages of shipping: merge the adapter into its base, and prove that nothing was lost."""

from __future__ import annotations

from pathlib import Path

from doratune.base import fingerprint, load_tokenizer, resolve_base
from doratune.data import Renderer, read_examples
from doratune.errors import StorageError, VerificationError
from doratune.recipe.schema import Recipe
from doratune.record.files import digest_json, digest_path
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import MergeFile
from doratune.ship.merging.checkpoint import stored_dtype
from doratune.ship.merging.merge import merge
from doratune.ship.merging.onto import check_onto
from doratune.ship.task import Task
from doratune.ship.verification.compare_logits import edge_cases
from doratune.ship.verification.onto import verify_onto
from doratune.ship.verification.verify import thresholds, verify


def merge_adapter(run: RunFolder, recipe: Recipe) -> bool:
    """Merges ``adapter/`` into the base; writes ``merged/`` and ``merge.json``.

    An earlier ``verify.json`` is deleted first: it speaks of another model.

    Returns:
        Whether anything was done; False when the merged model is up to date.

    Raises:
        ConfigError: Training quantised the base and ``merge.onto`` says nothing, or the reverse.
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base cannot be had or merged into.
        StorageError: There is no adapter yet, too little space, or a file cannot be written.
    """
    _expect(run.adapter, "train")
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    dtype, onto = _merged_dtype(recipe, base_path), recipe.merge.onto
    check_onto(run.adapter, onto)
    inputs = {
        "base": fingerprint(base_path),
        "adapter": digest_path(run.adapter),
        "dtype": dtype,
        **({"onto": onto} if onto else {}),
    }

    def work() -> None:
        run.verify.unlink(missing_ok=True)
        merged = merge(base_path, run.adapter, run.merged, dtype, onto)
        MergeFile(
            base_fingerprint=inputs["base"],
            adapter_digest=inputs["adapter"],
            dtype=dtype,
            onto=onto,
            **merged._asdict(),
        ).write(run.merge)

    return run.run_stage("merge", inputs, [run.merged, run.merge], work)


def verify_merged(run: RunFolder, recipe: Recipe, task: Task | None = None) -> bool:
    """Compares ``merged/`` with base and adapter; writes ``verify.json``, also when it fails.

    Where training quantised the base, all three choices of ``merge.onto`` are compared with it.

    Args:
        run: A merged run.
        recipe: Its recipe.
        task: The test questions, which every choice is asked then.

    Returns:
        Whether anything was done; False when the last verification passed and still holds.

    Raises:
        VerificationError: They differ by more than a threshold; every time until merged anew.
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: Base or merged model cannot be loaded.
        StorageError: There is no merged model yet, or a file cannot be read or written.
    """
    _expect(run.adapter, "train")
    _expect(run.merged, "merge")
    merge_file = MergeFile.read(run.merge)
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    settings = {
        "verify": recipe.verify.model_dump(),
        "template": recipe.data.template,
        "thresholds": thresholds(merge_file.dtype),
    }
    inputs = {
        "base": fingerprint(base_path),
        "adapter": digest_path(run.adapter),
        "merged": digest_path(run.merged),
        "test": digest_path(run.examples("test")),
        "settings": digest_json(settings),
    }
    if merge_file.onto:
        asked = {**inputs, "asked": "yes"}
        if task is not None or run.is_current("verify", asked):
            inputs = asked  # answers that were given are not thrown away
    return run.run_stage(
        "verify",
        inputs,
        outputs=[run.verify],
        work=lambda: _verify(run, recipe, base_path, merge_file, task),
    )


def _verify(
    run: RunFolder, recipe: Recipe, base_path: Path, merged: MergeFile, task: Task | None
) -> None:
    prompts = golden_inputs(run, recipe, base_path)
    if merged.onto is None:
        result = verify(base_path, run.adapter, run.merged, merged.dtype, prompts)
    else:
        result = verify_onto(run, recipe, base_path, prompts, task)
    result.write(run.verify)
    if not result.passed:
        raise VerificationError(
            f"{run.merged} is not the model that base and adapter make: "
            f"{' '.join(result.failures)} Do not use it; delete it and merge again. "
            f"All figures are in {run.verify}."
        )


def golden_inputs(run: RunFolder, recipe: Recipe, base_path: Path) -> list[list[int]]:
    """Token ids of test examples and edge cases, on which two forms of a model are compared."""
    tokenizer = load_tokenizer(base_path)
    renderer = Renderer(tokenizer, recipe.data.template)
    examples = read_examples(run, "test")[: recipe.verify.num_prompts]
    return [renderer.example(e.messages, e.tools).input_ids for e in examples] + edge_cases(
        tokenizer, recipe.data.max_length
    )


def _merged_dtype(recipe: Recipe, base_path: Path) -> str:
    for dtype in (recipe.merge.dtype, recipe.model.dtype):
        if dtype != "auto":
            return dtype
    return stored_dtype(base_path)


def _expect(folder: Path, stage: str) -> None:
    if not folder.is_dir():
        raise StorageError(f"{folder} does not exist. Run `doratune {stage}` first.")

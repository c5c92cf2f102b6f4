from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from doratune.errors import AdapterError, StorageError, VerificationError
from doratune.recipe.schema import Recipe
from doratune.record.files import digest_path
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import MergeFile, RecordFile, VerifyFile
from doratune.ship import merge_adapter, verify_merged
from tests.ship.adapters import edit_tensors, write_origin
from tests.ship.export.runs import trained_run
from tests.tiny import save_tiny


def recipe_for(base: Path, **sections: dict[str, object]) -> Recipe:
    model = {"source": str(base), **sections.pop("model", {})}
    return Recipe(name="tiny", model=model, data={"source": "t.jsonl"}, **sections)


@pytest.fixture
def run(adapter: Path, tmp_path: Path) -> RunFolder:
    """A run that has been trained: two test examples and an adapter."""
    return trained_run(tmp_path / "run", adapter, num_examples=2)


def test_merge_then_verify_then_up_to_date(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base)
    assert merge_adapter(run, recipe)
    merged = MergeFile.read(run.merge)
    assert (merged.method, merged.dtype, merged.num_merged_tensors) == ("dora", "float32", 14)
    assert merged.adapter_digest == digest_path(run.adapter)
    assert merged.num_bytes == sum(
        t.nbytes for t in load_file(run.merged / "model.safetensors").values()
    )
    assert verify_merged(run, recipe)
    verified = VerifyFile.read(run.verify)
    assert verified.passed
    assert verified.num_prompts == 2 + 3
    assert not merge_adapter(run, recipe)
    assert not verify_merged(run, recipe)


def test_num_prompts_limits_the_examples_and_counts_as_input(base: Path, run: RunFolder) -> None:
    merge_adapter(run, recipe_for(base))
    verify_merged(run, recipe_for(base))
    assert verify_merged(run, recipe_for(base, verify={"num_prompts": 1}))
    assert VerifyFile.read(run.verify).num_prompts == 1 + 3


@pytest.mark.parametrize(
    ("stored", "model", "merge", "expected"),
    [
        ("bfloat16", "auto", "auto", "bfloat16"),
        ("float32", "auto", "auto", "float32"),
        ("float32", "bfloat16", "auto", "bfloat16"),
        ("bfloat16", "bfloat16", "float16", "float16"),
    ],
)
def test_precision_of_the_merged_model(
    run: RunFolder, tmp_path: Path, stored: str, model: str, merge: str, expected: str
) -> None:
    base = save_tiny(tmp_path / "base", getattr(torch, stored))
    write_origin(base, run.adapter, "dora")
    recipe = recipe_for(base, model={"dtype": model}, merge={"dtype": merge})
    merge_adapter(run, recipe)
    assert MergeFile.read(run.merge).dtype == expected
    assert json.loads((run.merged / "config.json").read_text())["dtype"] == expected
    verify_merged(run, recipe)
    assert VerifyFile.read(run.verify).dtype == expected


def test_a_failed_verification_is_written_and_never_up_to_date(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base)
    merge_adapter(run, recipe)
    verify_merged(run, recipe)
    name = "model.layers.1.self_attn.o_proj.weight"
    source = load_file(base / "model.safetensors")[name]
    edit_tensors(run.merged / "model.safetensors", **{name: source})
    for _ in range(2):
        with pytest.raises(
            VerificationError,
            match=r"merged is not the model that base and adapter make: weight_error is 0\.\d+ in "
            r"layer model\.layers\.1\.self_attn\.o_proj; at most 9\.54e-07 is allowed",
        ):
            verify_merged(run, recipe)
        verified = VerifyFile.read(run.verify)
        assert not verified.passed
        assert verified.failures
        assert "verify" not in RecordFile.read(run.record).stages
    # Merging finds that its folder is not what it wrote, and takes the old verdict away with it.
    assert merge_adapter(run, recipe)
    assert not run.verify.exists()
    assert verify_merged(run, recipe)
    assert VerifyFile.read(run.verify).passed


def test_another_adapter_is_merged_anew(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base)
    merge_adapter(run, recipe)
    file = run.adapter / "adapter_model.safetensors"
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"
    edit_tensors(file, **{key: 2 * load_file(file)[key]})
    with pytest.raises(VerificationError, match=r"model\.layers\.0\.mlp\.up_proj; at most"):
        verify_merged(run, recipe)
    assert merge_adapter(run, recipe)
    assert verify_merged(run, recipe)


def test_a_failed_merge_leaves_no_merged_model(base: Path, run: RunFolder) -> None:
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"
    edit_tensors(run.adapter / "adapter_model.safetensors", **{key: None})
    with pytest.raises(AdapterError, match="lora_magnitude_vector"):
        merge_adapter(run, recipe_for(base))
    assert not run.merged.exists()
    assert not run.merge.exists()


def test_a_wrong_base_is_refused_by_both(base: Path, run: RunFolder, tmp_path: Path) -> None:
    other = recipe_for(save_tiny(tmp_path / "other", seed=5))
    with pytest.raises(AdapterError, match="works on its own base only"):
        merge_adapter(run, other)
    merge_adapter(run, recipe_for(base))
    with pytest.raises(AdapterError, match="works on its own base only"):
        verify_merged(run, other)


def test_what_must_be_there_first(base: Path, run: RunFolder) -> None:
    with pytest.raises(
        StorageError, match=re.escape(f"{run.merged} does not exist. Run `doratune merge`")
    ):
        verify_merged(run, recipe_for(base))
    shutil.rmtree(run.adapter)
    for stage in (merge_adapter, verify_merged):
        with pytest.raises(
            StorageError, match=re.escape(f"{run.adapter} does not exist. Run `doratune train`")
        ):
            stage(run, recipe_for(base))

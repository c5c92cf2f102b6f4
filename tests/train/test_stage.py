"""Training through its real door, on a tiny model and a real tiny data file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file

from doratune.adapter.tuned import load_tuned
from doratune.data import prepare_data
from doratune.recipe import Recipe, write_recipe
from doratune.record.files import digest_file
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import ORIGIN, AdapterOrigin, DataFile, RecordFile, Step, TrainFile
from doratune.train import train_model
from tests.adapter.models import tokens
from tests.tiny import clauses_file, tiny_model

SECTIONS: dict[str, dict[str, object]] = {
    "adapter": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    "train": {"max_steps": 30, "batch_size": 4, "learning_rate": 5e-3, "save_steps": 7},
}


def recipe(tmp_path: Path, base: Path, **sections: dict[str, object]) -> Recipe:
    data = clauses_file(tmp_path)
    return Recipe.model_validate(
        {
            "name": "tiny",
            "model": {"source": str(base)},
            "data": {"source": str(data)},
            **{
                key: {**SECTIONS.get(key, {}), **sections.get(key, {})}
                for key in {*SECTIONS, *sections}
            },
        }
    )


def prepared(tmp_path: Path, settings: Recipe, name: str = "run") -> RunFolder:
    run = RunFolder(tmp_path / name)
    run.path.mkdir()
    RecordFile(name="tiny", recipe_digest="d", seed=0).write(run.record)
    prepare_data(run, settings)
    return run


def test_an_adapter_is_trained_and_recorded(tmp_path: Path, tiny_base: Path) -> None:
    settings = recipe(tmp_path, tiny_base)
    run = prepared(tmp_path, settings)
    assert train_model(run, settings) is True

    steps = Step.read_lines(run.steps)
    assert [step.step for step in steps] == list(range(1, 31))
    assert steps[0].magnitude_change == 0.0
    assert steps[-1].loss < 0.8 * steps[0].loss
    assert steps[-1].magnitude_change is not None
    assert steps[-1].magnitude_change > 1e-3
    assert steps[-1].direction_change is not None
    assert steps[-1].direction_change > 1e-4
    record = TrainFile.read(run.train)
    assert record.fast_layers == 14
    assert record.num_steps == 30
    assert record.dtype == "float32"
    assert record.validation_loss is not None
    assert record.validation_loss < steps[0].loss
    assert len(record.layers) == 14
    assert record.num_tokens == steps[-1].num_tokens
    assert not run.checkpoints.exists(), "checkpoints go once the adapter is there"

    tensors = load_file(run.adapter / "adapter_model.safetensors")
    magnitudes = {key: t for key, t in tensors.items() if "magnitude" in key}
    assert len(magnitudes) == 14
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    theirs = PeftModel.from_pretrained(tiny_model(), str(run.adapter)).eval()
    ours = load_tuned(tiny_base, run.adapter)
    torch.testing.assert_close(theirs(tokens()).logits, ours(tokens()).logits, rtol=1e-5, atol=1e-5)
    assert AutoPeftModelForCausalLM.from_pretrained(str(run.adapter)) is not None
    origin, data = AdapterOrigin.read(run.adapter / ORIGIN), DataFile.read(run.data)
    assert (origin.data_digest, origin.data_ordered_digest) == (data.digest, data.ordered_digest)
    assert origin.split_digests == {split: s.digest for split, s in data.splits.items()}
    assert origin.files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert origin.files["adapter_model.safetensors"] == digest_file(
        run.adapter / "adapter_model.safetensors"
    )

    assert train_model(run, settings) is False, "unchanged inputs: nothing to do"
    changed = recipe(tmp_path, tiny_base, train={"max_steps": 2})
    assert train_model(run, changed) is True
    assert len(Step.read_lines(run.steps)) == 2


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_other_methods(tmp_path: Path, tiny_base: Path, method: str) -> None:
    settings = recipe(
        tmp_path,
        tiny_base,
        adapter={"method": method},
        train={"max_steps": 12, "learning_rate": 2e-3},
    )
    run = prepared(tmp_path, settings)
    train_model(run, settings)
    record, steps = TrainFile.read(run.train), Step.read_lines(run.steps)
    assert record.method == method
    assert record.fast_layers == 0
    assert steps[-1].loss < steps[0].loss
    tuned = load_tuned(tiny_base, run.adapter)
    assert not torch.equal(tuned(tokens()).logits, tiny_model()(tokens()).logits)
    assert (record.layers == []) == (method == "full")


def test_accumulation_is_a_larger_batch(tmp_path: Path, tiny_base: Path) -> None:
    """Batch 8 and 2 x 4 are one training: the same losses to float32 rounding."""
    losses = []
    for name, size, parts in (("one", 8, 1), ("two", 4, 2)):
        settings = recipe(
            tmp_path,
            tiny_base,
            adapter={"lora_dropout": 0.0},
            train={"max_steps": 6, "batch_size": size, "gradient_accumulation_steps": parts},
        )
        run = prepared(tmp_path, settings, name)
        train_model(run, settings)
        losses.append([step.loss for step in Step.read_lines(run.steps)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_checkpointing_activations_changes_nothing(tmp_path: Path, tiny_base: Path) -> None:
    losses = []
    for name, checkpointing in (("kept", False), ("recomputed", True)):
        settings = recipe(
            tmp_path, tiny_base, train={"max_steps": 5, "gradient_checkpointing": checkpointing}
        )
        run = prepared(tmp_path, settings, name)
        train_model(run, settings)
        losses.append([step.loss for step in Step.read_lines(run.steps)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_killed_training_resumes_to_the_same_end(tmp_path: Path, tiny_base: Path) -> None:
    """SIGKILL in mid-training; then the same command. Dropout is on, so random state counts."""
    settings = recipe(tmp_path, tiny_base)
    undisturbed, killed = (prepared(tmp_path, settings, name) for name in ("whole", "killed"))
    train_model(undisturbed, settings)
    write_recipe(killed.recipe, settings)

    command = [sys.executable, "-m", "doratune", "train", str(killed.path)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if killed.steps.exists() and killed.steps.read_bytes().count(b"\n") >= 16:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL
    assert not killed.adapter.exists()
    assert any(killed.checkpoints.glob("checkpoint-*"))

    assert train_model(killed, settings) is True
    record = TrainFile.read(killed.train)
    assert record.resumed_from_steps[0] in (7, 14, 21)
    assert [_without_time(s) for s in Step.read_lines(killed.steps)] == [
        _without_time(s) for s in Step.read_lines(undisturbed.steps)
    ]
    whole = load_file(undisturbed.adapter / "adapter_model.safetensors")
    for key, tensor in load_file(killed.adapter / "adapter_model.safetensors").items():
        assert torch.equal(tensor, whole[key]), key


def _without_time(step: Step) -> dict[str, object]:
    return step.model_dump(exclude={"seconds"})

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file

from doratune.adapter import load_adapter
from doratune.base import load_base
from doratune.data.questions import Questions
from doratune.record.export import Approximation
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import AdapterOrigin
from doratune.ship.export.lora import write_approximation
from doratune.ship.task import Task
from tests.adapter.models import tokens
from tests.ship.export.runs import (
    card_of,
    recipe_for,
    sealed_adapter,
    subject_of,
    trained_run,
)


@torch.no_grad()
def test_full_rank_is_the_trained_model_in_stock_peft(
    base: Path, run: RunFolder, tmp_path: Path
) -> None:
    recipe = recipe_for(base, export={"lora_rank": 48})
    written = write_approximation(subject_of(run, recipe), tmp_path)
    found = PeftModel.from_pretrained(load_base(base, "float32"), str(tmp_path)).eval()
    assert not any("magnitude" in name for name, _ in found.named_parameters())
    expected = load_adapter(load_base(base, "float32"), run.adapter)
    torch.testing.assert_close(
        found(tokens()).logits, expected(tokens()).logits, rtol=1e-4, atol=1e-4
    )
    assert written.approximation is not None
    assert written.approximation.delta_error < 1e-5
    assert written.logits[0].mean_kl < 1e-8


def test_a_lower_rank_costs_and_says_so(base: Path, run: RunFolder, tmp_path: Path) -> None:
    subject = subject_of(run, recipe_for(base, export={"lora_rank": 4}))
    written = write_approximation(subject, tmp_path)
    approximation, (logits,) = written.approximation, written.logits
    assert approximation is not None
    assert 0.05 < approximation.delta_error < approximation.without_magnitude.delta_error
    assert logits.mean_kl > 1e-4
    assert (logits.against, logits.thresholds) == ("sidecar", {})
    text = card_of(subject, "lora", tmp_path, written)
    assert text.count("**An approximation**") == 1
    assert f"{approximation.delta_error:.1%} of the change of the weights is missing" in text
    assert "Right answers on the test split were not counted" in text
    stored = Approximation.model_validate_json((tmp_path / "approximation.json").read_text())
    assert stored == approximation


def test_configuration_and_origin_are_those_of_lora(
    base: Path, run: RunFolder, tmp_path: Path
) -> None:
    write_approximation(subject_of(run, recipe_for(base)), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["use_dora"] is False
    assert config["r"] == config["lora_alpha"] == 32  # twice the recipe's rank
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert AdapterOrigin.read(tmp_path / "doratune.json").method == "lora"
    assert AdapterOrigin.read(run.adapter / "doratune.json").method == "dora"


def test_patterns_and_rslora_are_in_the_factors(base: Path, tmp_path: Path) -> None:
    """They scale B A of the DoRA adapter, and nothing scales what is written."""
    adapter = sealed_adapter(
        base, tmp_path / "adapter", use_rslora=True, rank_pattern={"q_proj": 2},
        alpha_pattern={"up_proj": 3},
    )  # fmt: skip
    run = trained_run(tmp_path / "run", adapter)
    (tmp_path / "out").mkdir()
    recipe = recipe_for(base, export={"lora_rank": 48})
    written = write_approximation(subject_of(run, recipe), tmp_path / "out")
    assert written.logits[0].mean_kl < 1e-8


QUESTIONS = Questions([[1]] * 3, ["a"] * 3, [[2]] * 3, None, [])


def test_the_test_split_is_asked_where_the_caller_can(
    base: Path, run: RunFolder, tmp_path: Path
) -> None:
    asked: list[bool] = []

    def answers(model: Any, description: str) -> list[bool]:
        asked.append(any("magnitude" in name for name, _ in model.named_parameters()))
        return [True, True, False] if asked[-1] else [True, False, True]

    subject = subject_of(run, recipe_for(base), task=Task(QUESTIONS, answers))
    written = write_approximation(subject, tmp_path)
    task = written.tasks[0]
    assert asked == [True, False]
    assert (task.num_right, task.num_right_approximate) == (2, 2)
    assert (task.num_lost, task.num_gained) == (1, 1)
    text = card_of(subject, "lora", tmp_path, written)
    assert "2 of 3 with the trained model, 2 with plain LoRA (1 lost, 1 gained)" in text


def test_the_same_file_every_time(base: Path, run: RunFolder, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_approximation(subject_of(run, recipe_for(base)), tmp_path / name)
        files.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())

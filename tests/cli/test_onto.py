from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from doratune.cli.onto import print_fidelity, with_onto
from doratune.cli.run import run_all
from doratune.errors import ConfigError
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import ONTO, OntoFidelity, TaskCost, VerifyFile
from tests.ship.export.runs import recipe_for


def test_the_option_overrides_the_recipe() -> None:
    recipe = recipe_for(Path("base"), model={"quantize": "nf4"}, merge={"onto": "original"})
    assert with_onto(recipe, None) is recipe
    assert with_onto(recipe, "requantize").merge.onto == "requantize"
    with pytest.raises(
        ConfigError, match="--onto is 'base'; expected one of dequantized, original, r"
    ):
        with_onto(recipe, "base")


def test_the_figures_to_choose_by(tmp_path: Path) -> None:
    run, console = RunFolder(tmp_path), Console(record=True, width=140)
    print_fidelity(run, console)
    figures = {
        "num_tokens": 100, "max_abs_difference": 1.0, "mean_abs_difference": 0.1, "mean_kl": 0.0123,
        "max_kl": 0.5, "top1_agreement": 0.875,
    }  # fmt: skip
    task = TaskCost(
        what="", num_examples=9, num_right=7, num_right_approximate=6, num_lost=2, num_gained=1
    )
    fidelity = {onto: OntoFidelity(num_bytes=2**21, **figures) for onto in ONTO}
    fidelity["original"] = fidelity["original"].model_copy(update={"task": task})
    VerifyFile(
        passed=True, dtype="float32", num_prompts=2, **figures, thresholds={}, failures=[],
        onto="requantize", fidelity=fidelity,
    ).write(run.verify)  # fmt: skip
    print_fidelity(run, console)
    lines = [line.split() for line in console.export_text().splitlines() if line.strip()]
    assert len([line for line in lines if line[0] in ONTO]) == 3
    rows = {line[0]: " ".join(line) for line in lines}
    assert "original 2 MiB 1.2e-02 87.50% 6 of 9 (trained 7; 2 lost, 1 gained)" in rows["original"]
    assert "requantize (merged/) 2 MiB 1.2e-02 87.50% not asked (--accuracy)" in rows["requantize"]


def test_a_whole_run_wants_to_know_before_it_trains(tmp_path: Path) -> None:
    recipe, folder = (
        recipe_for(Path("base"), model={"quantize": "nf4"}),
        RunFolder(tmp_path / "run"),
    )
    with pytest.raises(
        ConfigError, match=r"merge\.onto does not say onto what\. Choose one: dequant"
    ):
        run_all(recipe, folder)
    assert not folder.path.exists()

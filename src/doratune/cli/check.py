"""`doratune check`: everything that can be found wrong before training."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from doratune.cli.options import Target, opened, read_target
from doratune.cli.stages import RUNS, run_stage
from doratune.progress import console
from doratune.record.run_folder import RunFolder


def check(recipe: Target) -> None:
    """Check the recipe, the model and the data, and say what training would do. Writes nothing."""
    loaded, _ = read_target(recipe, RUNS)
    with TemporaryDirectory(prefix="doratune-check-") as folder:
        scratch = RunFolder(Path(folder))
        with opened(loaded, scratch):
            run_stage("data", scratch, loaded)
            from doratune.train import plan_recipe  # imports torch

            console.print(f"Training would take: {plan_recipe(scratch, loaded)}")
    console.print(f"{recipe} is fine.")

"""`doratune quickstart`: the whole job on a small real model and a built-in task."""

from __future__ import annotations

from doratune.cli.options import Runs
from doratune.cli.run import run_all
from doratune.cli.stages import RUNS
from doratune.recipe import shipped_recipe
from doratune.record.run_folder import RunFolder


def quickstart(runs: Runs = RUNS) -> None:
    """Fine-tune SmolLM2-135M on built-in contract clauses: about five minutes on two CPU cores."""
    recipe = shipped_recipe("quickstart")
    run_all(recipe, RunFolder(runs / recipe.name))

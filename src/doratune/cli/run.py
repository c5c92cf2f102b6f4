"""`doratune run`: every stage of a recipe."""

from __future__ import annotations

from doratune.cli.options import Runs, Target, opened, read_target
from doratune.cli.stages import RUNS, STAGES, run_stage
from doratune.cli.summary import print_summary
from doratune.errors import ConfigError, VerificationError
from doratune.progress import console
from doratune.recipe import Recipe
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import MEANINGS, DataFile


def run(recipe: Target, runs: Runs = RUNS) -> None:
    """Do all stages of a recipe, skipping those whose inputs have not changed."""
    run_all(*read_target(recipe, runs))


def run_all(recipe: Recipe, folder: RunFolder) -> None:
    """The stages in their order; the report is written even if verify or export fails."""
    _check_onto(recipe)
    with opened(recipe, folder):
        try:
            for stage in STAGES:
                if reason := _left_out(stage, folder, recipe):
                    console.print(f"[bold]{stage}[/] left out: {reason}")
                else:
                    run_stage(stage, folder, recipe)
        except VerificationError:
            run_stage("report", folder, recipe)
            raise
        print_summary(folder, recipe)


def _check_onto(recipe: Recipe) -> None:
    """Asks before training what merging would ask after it."""
    if recipe.model.quantize and recipe.merge.onto is None:
        raise ConfigError(
            f"model.quantize is {recipe.model.quantize!r}, and `doratune run` merges after training, "
            f"but merge.onto does not say onto what. Choose one: {MEANINGS}. Or do stages one by one, "
            "`doratune train` and so on."
        )


def _left_out(stage: str, folder: RunFolder, recipe: Recipe) -> str | None:
    """Why a stage has nothing to do for this recipe; None where it has."""
    if stage == "eval" and DataFile.read(folder.data).format == "text":
        return "plain text has no answers to compare"
    wanted = recipe.eval.benchmarks
    if stage == "benchmarks" and not wanted.tasks and wanted.texts is None:
        return "the recipe names no eval.benchmarks.tasks or texts"
    if stage == "export" and recipe.export.forms is None:
        return "the recipe names no export.forms"
    return None

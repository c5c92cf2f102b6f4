"""The commands that do one stage of a run."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from doratune.cli.onto import with_onto
from doratune.cli.options import Runs, Target, opened, read_target
from doratune.cli.summary import print_figures
from doratune.errors import ConfigError, DependencyError
from doratune.progress import console
from doratune.recipe import Recipe
from doratune.record.evaluation import EvalFile
from doratune.record.run_folder import RunFolder

RUNS = Path("runs")

# Stage, the file it reads first and the stage that writes that file, and its door. Doors are imported
# when they are needed: `doratune --help` should not wait for torch.
STAGES: dict[str, tuple[str, str, str]] = {
    "data": ("", "", "doratune.data:prepare_data"),
    "train": ("data", "data", "doratune.train:train_model"),
    "eval": ("adapter", "train", "doratune.evaluate:evaluate_models"),
    "benchmarks": ("adapter", "train", "doratune.evaluate.benchmarks:evaluate_benchmarks"),
    "completions": ("adapter", "train", "doratune.evaluate.completions:write_completions"),
    "merge": ("adapter", "train", "doratune.ship:merge_adapter"),
    "verify": ("merged", "merge", "doratune.ship:verify_merged"),
    "latency": ("merged", "merge", "doratune.evaluate.latency:measure_latency"),
    "export": ("adapter", "train", "doratune.ship.export:export_forms"),
    "report": ("", "", "doratune.report:write_report"),
}


def run_stage(stage: str, run: RunFolder, recipe: Recipe) -> bool:
    """Does one stage, or says that it is up to date."""
    needs, maker, door = STAGES[stage]
    if needs and not getattr(run, needs).exists():
        raise ConfigError(
            f"{run.path} has no {needs} yet, which `{stage}` starts from. "
            f"Run `doratune {maker}` first, or `doratune run` for all stages."
        )
    done = load_door(door)(run, recipe)
    say_done(stage, done)
    return done


def say_done(stage: str, done: bool) -> None:
    """Says whether a stage did anything."""
    console.print(f"[bold]{stage}[/] {'done' if done else 'is up to date; nothing to do'}")


def load_door(door: str) -> Callable[[RunFolder, Recipe], bool]:
    """The door of a stage, by module and name.

    Raises:
        DependencyError: A package that it needs is missing.
    """
    module, _, name = door.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("doratune"):
            raise
        raise DependencyError(
            f"The package {error.name!r} is not installed. "
            "Install it with: pip install 'doratune[all]'"
        ) from error


def stage_command(stage: str, target: Path, runs: Path) -> None:
    """What every command of one stage does."""
    recipe, run = read_target(target, runs)
    with opened(recipe, run):
        run_stage(stage, run, recipe)


def train(recipe: Target, runs: Runs = RUNS) -> None:
    """Train; resumes from the last checkpoint after an interruption."""
    stage_command("train", recipe, runs)


def evaluate(recipe: Target, runs: Runs = RUNS) -> None:
    """Evaluate the base and the tuned model on the test split."""
    loaded, run = read_target(recipe, runs)
    with opened(loaded, run):
        run_stage("eval", run, loaded)
        print_figures(EvalFile.read(run.eval_file(loaded.eval.task)), Console())


def benchmarks(recipe: Target, runs: Runs = RUNS) -> None:
    """Compare base and tuned model on public benchmarks and on texts from elsewhere."""
    stage_command("benchmarks", recipe, runs)


def completions(recipe: Target, runs: Runs = RUNS) -> None:
    """Let base and tuned answer test prompts and edge cases, to be read and reviewed."""
    stage_command("completions", recipe, runs)


def merge(
    recipe: Target,
    onto: Annotated[
        str | None,
        typer.Option(
            metavar="CHOICE",
            help="Over a quantised base: dequantized, original or requantize, whatever the recipe says.",
        ),
    ] = None,
    runs: Runs = RUNS,
) -> None:
    """Merge the adapter into the base weights."""
    loaded, run = read_target(recipe, runs)
    loaded = with_onto(loaded, onto)
    with opened(loaded, run):
        run_stage("merge", run, loaded)


def latency(recipe: Target, runs: Runs = RUNS) -> None:
    """Measure how long base, base with adapter, and merged model take."""
    stage_command("latency", recipe, runs)


def report(recipe: Target, runs: Runs = RUNS) -> None:
    """Write report.html from what the run folder holds."""
    stage_command("report", recipe, runs)

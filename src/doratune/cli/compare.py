"""`doratune compare`: the A/B, and what it has to say on the terminal."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from doratune.cli.options import Runs, Target, opened, read_target
from doratune.cli.stages import RUNS, load_door, run_stage, say_done
from doratune.errors import JobsFailedError
from doratune.recipe import Recipe
from doratune.record.comparison import ARMS, ArmFigures, CompareFile, PairFigures
from doratune.record.evaluation import METRICS
from doratune.record.run_folder import RunFolder
from doratune.report.text import duration, memory, percent, percent_range, points, points_range


def compare(
    recipe: Target,
    engine: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(help="Where the jobs run; compare.engine by default."),
    ] = None,
    runs: Runs = RUNS,
) -> None:
    """Train LoRA, DoRA and other arms, each at its best learning rate, and say what differs."""
    loaded, run = read_target(recipe, runs)
    if engine is not None:
        section = loaded.compare.model_copy(update={"engine": engine})
        loaded = loaded.model_copy(update={"compare": section})
    with opened(loaded, run):
        run_stage("data", run, loaded)
        try:
            done = load_door("doratune.compare.stage:compare_recipe")(run, loaded)
        except JobsFailedError:
            _tell(run, loaded)
            raise
        say_done("compare", done)
        _tell(run, loaded)


def _tell(run: RunFolder, recipe: Recipe) -> None:
    """Writes the page, and prints table and verdict."""
    load_door("doratune.report:write_comparison")(run, recipe)
    print_comparison(CompareFile.read(run.compare), Console())
    Console(soft_wrap=True).print(f"\nReport: {run.compare_report}\nFigures: {run.compare}")


def print_comparison(file: CompareFile, console: Console) -> None:
    """Prints the arms, the verdict and what limits it."""
    title = f"{file.num_examples} test examples; 95 % intervals over examples and seeds"
    table = Table(box=None, title=title, title_justify="left", pad_edge=False)
    table.add_column("")
    heads = (METRICS[file.primary].title, f"minus {ARMS[file.reference]}", "p", "time", "memory")
    for head in ("rate", *heads):
        table.add_column(head, no_wrap=True)
    pairs = {pair.arm: pair for pair in file.pairs}
    for arm in file.arms:
        table.add_row(*_row(arm, pairs.get(arm.arm)))
    console.print()
    console.print(table)
    console.print()
    lines = [f"Failed: {job.name}: {job.reason}" for job in file.jobs if job.status == "failed"]
    lines += [file.verdict, *(f"- {caution}" for caution in file.cautions)]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _row(arm: ArmFigures, pair: PairFigures | None) -> list[str]:
    """Each figure above its interval, or its ratio to the reference's."""
    cells = [
        ARMS[arm.arm],
        "" if arm.learning_rate is None else f"{arm.learning_rate:g}",
        f"{percent(arm.value.value)}\n{percent_range(arm.value)}",
    ]
    if pair is None:
        cells += ["", ""]
    else:
        cells += [
            f"{points(pair.difference.value)}\n{points_range(pair.difference)}",
            f"{pair.adjusted_p_value:.2g}",
        ]
    for figure, ratio in (
        (arm.seconds and duration(arm.seconds), pair and pair.time_ratio),
        (arm.peak_memory_bytes and memory(arm.peak_memory_bytes), pair and pair.memory_ratio),
    ):
        cells.append((figure or "") + (f"\n{ratio:.2f} x" if ratio else ""))
    return cells

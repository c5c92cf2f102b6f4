"""`doratune verify`: whether every form of the model is the trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from doratune.cli.export import questions_to_ask
from doratune.cli.onto import print_fidelity
from doratune.cli.options import Runs, Target, opened, read_target
from doratune.cli.stages import RUNS, load_door, run_stage, say_done
from doratune.errors import ConfigError
from doratune.progress import console, visible
from doratune.recipe import Recipe
from doratune.record.export import LogitCheck
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import VerifyFile
from doratune.record.verification import FormCheck, FormsFile, ServedFile


def verify(
    recipe: Target,
    served: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask a server with OpenAI's API instead, such as http://localhost:8000/v1.",
        ),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name there; else the only one.")
    ] = None,
    served_dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="What it computes in; bounds near ties.")
    ] = "bfloat16",
    served_key: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable with the key.")
    ] = None,
    accuracy: Annotated[
        bool,
        typer.Option(
            "--accuracy",
            help="Over a quantised base: ask each choice of merge.onto the test questions.",
        ),
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Prove that the merged model, and what was exported or is served, is the trained model."""
    if served is None and (served_model or served_key):
        raise ConfigError(
            "--served-model and --served-key say how to ask a server; add --served URL."
        )
    loaded, run = read_target(recipe, runs)
    with opened(loaded, run):
        if served is not None:
            ask: Any = load_door("doratune.ship.verification.served:verify_served")
            try:
                ask(run, loaded, served, served_model, served_dtype, served_key)
            finally:
                print_served(run, Console())
            return
        forms: Any = load_door("doratune.ship.verification.forms:verify_forms")
        try:
            if run.merged.exists() or not any(run.export.glob("*")):
                _verify_merged(run, loaded, accuracy)
            done = forms(run, loaded)
            if any(run.export.glob("*")):
                console.print(
                    f"[bold]forms[/] {'done' if done else 'are up to date; nothing to do'}"
                )
        finally:
            print_forms(run, Console())
            print_fidelity(run, Console())


def _verify_merged(run: RunFolder, recipe: Recipe, accuracy: bool) -> None:
    if not accuracy:
        run_stage("verify", run, recipe)
        return
    door: Any = load_door("doratune.ship:verify_merged")
    say_done("verify", door(run, recipe, questions_to_ask(run, recipe)))


def print_forms(run: RunFolder, to: Console) -> None:
    """Prints how far each form is from the trained model, one line each; nothing where none is known."""
    table = _table("form", "mean KL", "top-1", "furthest layer", "output", "verdict")
    if run.verify.exists():
        merged = VerifyFile.read(run.verify)
        verdict = _verdict(not merged.passed, False)
        table.add_row("merged", *_figures(merged, merged.outputs), verdict)
    checks = FormsFile.read(run.forms).checks if run.forms.exists() else {}
    for name, check in checks.items():
        verdict = "" if check.not_run else _verdict(bool(check.failures), check.approximate)
        table.add_row(_title(name, check), *_figures(check.logits, check.outputs), verdict)
    if table.row_count:
        to.print(table)
    for name, check in checks.items():
        if check.not_run:
            to.print(f"{_title(name, check)} was not compared: {escape(check.not_run)}")


def _title(name: str, check: FormCheck) -> str:
    return escape(
        f"gguf {Path(name).stem.rpartition('-')[2]}" if check.form == "gguf" else f"export/{name}"
    )


def _figures(figures: VerifyFile | LogitCheck | None, outputs: dict[str, float]) -> list[str]:
    """KL in nats, agreement, and the layer whose output is furthest on the same input."""
    if figures is None:
        return ["not run", "", "", ""]
    layer = max(outputs, key=lambda name: outputs[name], default="")
    short = layer.removeprefix("model.").removeprefix("layers.")
    error = f"{outputs[layer]:.1e}" if layer else ""
    return [f"{figures.mean_kl:.1e}", f"{100 * figures.top1_agreement:.2f} %", escape(short), error]


def _verdict(failed: bool, approximate: bool) -> str:
    if failed:
        return "[red]another[/]"
    return "approximate" if approximate else "[green]same[/]"


def print_served(run: RunFolder, to: Console) -> None:
    """Prints what the server answered, prompt by prompt; nothing where it was not asked."""
    if not run.served.exists():
        return
    file = ServedFile.read(run.served)
    table = _table("prompt", "answer", "expected", "at", "margin", "base's")
    room = max(8, (to.width - 38) // 3)
    for answer in file.answers:
        margins = (answer.margin, answer.base_margin)
        table.add_row(
            *(_short(text, room) for text in (answer.prompt, answer.text, answer.expected)),
            "" if answer.departs_at is None else str(answer.departs_at + 1),
            *("" if margin is None else f"{margin:.2g}" for margin in margins),
        )
    to.print(table)
    to.print(file.sentence, markup=False, highlight=False)


def _short(text: str, room: int) -> str:
    line = " ".join(visible(text).split())
    return escape(line if len(line) <= room else line[: room - 1] + "…")


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table

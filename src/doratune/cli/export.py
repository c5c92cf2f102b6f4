"""`doratune export`: the forms that others load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from doratune.cli.options import Runs, Target, opened, read_target
from doratune.cli.stages import RUNS, load_door, say_done
from doratune.errors import ConfigError
from doratune.recipe import Recipe
from doratune.record.export import FORMS, Form
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile

if TYPE_CHECKING:
    from doratune.ship.task import Task


def export(
    recipe: Target,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMS",
            help=f"{', '.join(FORMS)}, with commas between; else those of the recipe.",
        ),
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Ask the forms the test questions too.")
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Export the trained model as adapter, plain LoRA, checkpoint, GGUF, bundle or in fewer bits."""
    forms = None if to is None else _parse(to)
    loaded, run = read_target(recipe, runs)
    with opened(loaded, run):
        export_forms: Any = load_door("doratune.ship.export:export_forms")
        task = questions_to_ask(run, loaded) if accuracy else None
        say_done("export", export_forms(run, loaded, forms, task))


def _parse(to: str) -> list[Form]:
    names = [name.strip() for name in to.split(",")]
    unknown = [name for name in names if name not in FORMS]
    if unknown:
        raise ConfigError(
            f"--to names {', '.join(map(repr, unknown))}; expected one or more of "
            f"{', '.join(FORMS)}, with commas between."
        )
    return [form for form in FORMS if form in names]


def questions_to_ask(run: RunFolder, recipe: Recipe) -> Task:
    """The test questions, asked as evaluation does."""
    from doratune.base import load_tokenizer, resolve_base
    from doratune.data import Renderer, read_examples
    from doratune.data.questions import make_questions
    from doratune.evaluate.ask import ask
    from doratune.ship.task import Task

    tokenizer = load_tokenizer(resolve_base(recipe.model.source, recipe.model.revision))
    renderer = Renderer(tokenizer, recipe.data.template)
    labels = DataFile.read(run.data).labels
    questions = make_questions(renderer, read_examples(run, "test"), labels)

    def answer(model: Any, description: str) -> list[bool]:
        return ask(model, tokenizer, questions, recipe.eval, description).correct.tolist()

    return Task(questions, answer)

"""`doratune data`: the stage itself, and one example as the model sees it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from typer.core import TyperGroup

from doratune.cli.options import Runs, Target, read_target
from doratune.cli.stages import RUNS, stage_command
from doratune.errors import ConfigError, StorageError
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, Example, Split


class _StageByDefault(TyperGroup):
    """Takes what is not the name of a command as the arguments of ``prepare``."""

    # The context is click's class, of which typer 0.29 has a copy of its own: no name suits both.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["prepare", *args]
        return super().parse_args(ctx, args)


data = typer.Typer(
    cls=_StageByDefault,
    no_args_is_help=True,
    subcommand_metavar="RECIPE | show RUN --index N",
    help="Check the examples and split them into train, validation and test.",
)


@data.command("prepare")
def prepare(recipe: Target, runs: Runs = RUNS) -> None:
    """Do the stage; `doratune data RECIPE` is the same."""
    stage_command("data", recipe, runs)


@data.command("show")
def show_example(
    recipe: Target,
    index: Annotated[int, typer.Option(min=0, help="Number of the example; the first is 0.")],
    split: Annotated[Split, typer.Option(help="Where it is.")] = "train",
    runs: Runs = RUNS,
) -> None:
    """Print one example as the model sees it; what it does not learn from is dimmed."""
    loaded, run = read_target(recipe, runs)
    example = _example(run, split, index)

    from doratune.base import load_tokenizer, resolve_base  # imports torch
    from doratune.data import Renderer
    from doratune.data.render.show import show

    base = resolve_base(loaded.model.source, loaded.model.revision)
    text = show(example, Renderer(load_tokenizer(base), loaded.data.template))
    Console(soft_wrap=True).print(text)


def _example(run: RunFolder, split: Split, index: int) -> Example:
    """One line of a split, without reading the others.

    Raises:
        StorageError: The data stage has not run, or the line is not an example.
        ConfigError: There is no such line.
    """
    path = run.examples(split)
    if not path.exists():
        raise StorageError(f"{path} does not exist. Run `doratune data` first.")
    with path.open("rb") as file:
        line = next((line for number, line in enumerate(file) if number == index), None)
    if line is None:
        size = DataFile.read(run.data).splits[split].num_examples
        raise ConfigError(
            f"--index is {index:,}, and the {split} split has {size:,} examples; the first is 0."
        )
    try:
        return Example.model_validate_json(line)
    except ValidationError as error:
        raise StorageError(
            f"{path}:{index + 1} is not an example: {error.errors()[0]['msg']}. "
            "Run `doratune data` again."
        ) from error

"""Arguments that several commands share, and what they open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from doratune.errors import Interrupted
from doratune.recipe import Recipe, load_recipe
from doratune.recipe.start import start_run
from doratune.record.run_folder import RunFolder

Target = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, or the folder of an earlier run.")
]
Runs = Annotated[Path, typer.Option(help="Folder in which run folders are made.")]


def read_target(target: Path, runs: Path) -> tuple[Recipe, RunFolder]:
    """The recipe that the user named, and its run folder, which need not exist yet."""
    if target.is_dir():
        return load_recipe(target / "recipe.yaml"), RunFolder(target)
    recipe = load_recipe(target)
    return recipe, RunFolder(runs / recipe.name)


@contextmanager
def opened(recipe: Recipe, run: RunFolder) -> Iterator[None]:
    """Holds the run folder, with the resolved recipe, environment and record in it.

    Raises:
        Interrupted: The user pressed Ctrl-C.
    """
    with run.locked():
        start_run(run, recipe)
        try:
            yield
        except KeyboardInterrupt as interrupt:
            raise Interrupted(
                "Interrupted. Nothing finished is lost: the same command goes on where this one "
                "stopped."
            ) from interrupt

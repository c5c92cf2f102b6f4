"""`doratune data`: the stage itself, and one example as the model sees it."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from doratune.cli.options import Runs, Target
from doratune.cli.stages import RUNS, stage_command


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
    subcommand_metavar="RECIPE | show RUN",
    help="Check the examples and split them into train, validation and test.",
)


@data.command("prepare")
def prepare(recipe: Target, runs: Runs = RUNS) -> None:
    """Do the stage; `doratune data RECIPE` is the same."""
    stage_command("data", recipe, runs)

"""`doratune init`: a shipped recipe for the user to own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from doratune.recipe import copy_recipe, shipped_recipes


def init(
    name: Annotated[
        str | None, typer.Argument(help="Shipped recipe; lists them when left out.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="File to write; NAME.yaml by default.")] = None,
) -> None:
    """Copy a shipped recipe, or list them."""
    console = Console()
    if name is None:
        table = Table("recipe", "what it does", box=None, pad_edge=False)
        for recipe, description in shipped_recipes().items():
            table.add_row(recipe, description)
        console.print(table)
        console.print("\nCopy one with: doratune init NAME")
        return
    target = to or Path(f"{name}.yaml")
    copy_recipe(name, target)
    console.print(
        f"Wrote {target}. Edit it, then: doratune check {target} && doratune run {target}"
    )

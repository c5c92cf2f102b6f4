"""The recipes that come with doratune."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from doratune.errors import ConfigError
from doratune.recipe.load import parse_recipe
from doratune.recipe.schema import Recipe
from doratune.record.files import write_text

_SHELF = resources.files("doratune.recipe") / "shipped"


def shipped_recipes() -> dict[str, str]:
    """Name and first comment line of each shipped recipe."""
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8")
        .splitlines()[0]
        .lstrip("# ")
        for entry in sorted(_SHELF.iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".yaml")
    }


def shipped_recipe(name: str) -> Recipe:
    """A shipped recipe, parsed."""
    return parse_recipe(_text(name), f"the shipped recipe {name}")


def copy_recipe(name: str, target: Path) -> None:
    """Copies a shipped recipe, comments and all, for the user to own.

    Raises:
        ConfigError: No recipe has that name, or ``target`` exists.
    """
    text = _text(name)
    if target.exists():
        raise ConfigError(f"{target} exists and is left as it is. Give another path, or remove it.")
    write_text(target, text)


def _text(name: str) -> str:
    try:
        return (_SHELF / f"{name}.yaml").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no shipped recipe {name!r}. There are: {', '.join(shipped_recipes())}."
        ) from None

"""YAML to recipe and back, with every problem of a file reported at once and by line."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from doratune.errors import ConfigError, StorageError
from doratune.recipe.schema import Recipe
from doratune.recipe.section import MANY, ONE
from doratune.record.files import write_text

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, except for what YAML 1.2 and every user have otherwise.

    ``2e-4`` is a number, and ``off``, ``on``, ``yes`` and ``no`` are words.
    """


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if first in "tTfF" or pair[0] != "tag:yaml.org,2002:bool"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_recipe(path: Path) -> Recipe:
    """Reads and checks a recipe.

    Raises:
        ConfigError: The file is missing, is not YAML, or does not fit the schema. The message lists
            every problem with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no recipe {str(path)!r}. `doratune init` lists the shipped ones and copies "
            "one for you to edit."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The recipe {str(path)!r} cannot be read: {error}.") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, place: str) -> Recipe:
    """Checks the text of a recipe; ``place`` names it in messages."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        lines, repeated = _walk(root)
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{place}{line} is not valid YAML: {problem}.") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{place} holds {'nothing' if values is None else type(values).__name__}; "
            "it must be a mapping with at least name, model and data."
        )
    problems = [
        (line, f"{'.'.join(map(str, key))} is given twice; remove one") for key, line in repeated
    ]
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems += [_explain(dict(e), lines) for e in error.errors(include_url=False)]
    if not problems:
        return recipe
    rows = [f"  {place}:{line}: {problem}" for line, problem in sorted(problems)]
    count = "1 problem" if len(rows) == 1 else f"{len(rows)} problems"
    raise ConfigError("\n".join([f"The recipe has {count}:", *rows]))


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Writes the recipe with every default filled in."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    try:
        write_text(path, text)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}.") from error


def _walk(root: yaml.Node | None) -> tuple[dict[KeyPath, int], list[tuple[KeyPath, int]]]:
    """The line of every key, and the keys that stand twice in one mapping."""
    lines: dict[KeyPath, int] = {(): 1}
    repeated: list[tuple[KeyPath, int]] = []

    def visit(node: yaml.Node, at: KeyPath) -> None:
        if len(at) > 10:
            raise yaml.MarkedYAMLError(
                problem="nested too deeply, or an alias of itself", problem_mark=node.start_mark
            )
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.MarkedYAMLError(
                        problem="a key must be a plain word", problem_mark=key.start_mark
                    )
                here = (*at, key.value)
                if here in lines:
                    repeated.append((here, key.start_mark.line + 1))
                lines[here] = key.start_mark.line + 1
                visit(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                lines[(*at, index)] = value.start_mark.line + 1
                visit(value, (*at, index))

    if root is not None:
        visit(root, ())
    return lines, repeated


def _explain(error: dict[str, Any], lines: dict[KeyPath, int]) -> tuple[int, str]:
    """The line of a problem and what to say of it."""
    location: KeyPath = tuple(part for part in error["loc"] if part not in (ONE.tag, MANY.tag))
    if error["type"] == "missing":
        return _line_of(location[:-1], lines), f"{_name(location)} is missing"
    if error["type"] == "extra_forbidden":
        known = _fields(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return _line_of(location, lines), f"{_name(location)} is not a known key; {hint}"
    line = _line_of(location, lines)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return line, message
    while location not in lines:  # pydantic adds to the location that a key of a mapping is wrong
        location = location[:-1]
    if error["type"] == "model_type":
        message = f"expected a mapping of {', '.join(_fields(location))}"
    if ONE.tag in error["loc"] and error["type"] in ("string_type", "literal_error"):
        message += ", or a list"
    return line, f"{_name(location)} is {error['input']!r}; {message[0].lower()}{message[1:]}"


def _name(location: KeyPath) -> str:
    """A place of the recipe as one would write it, such as ``data.source[0].path``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _line_of(location: KeyPath, lines: dict[KeyPath, int]) -> int:
    """The line of the longest part of ``location`` that stands in the file."""
    while location not in lines:
        location = location[:-1]
    return lines[location]


def _fields(location: KeyPath) -> list[str]:
    """Names of the keys that may stand at a place of the recipe."""
    section: type[BaseModel] | None = Recipe
    for part in location:
        if section is None:
            return []
        if isinstance(part, str):  # a number picks one of a list, all of them of one section
            section = _section_in(section.model_fields[part].annotation)
    return [] if section is None else list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, itself or in a list."""
    if get_origin(annotation) is None:
        return (
            annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel)
            else None
        )
    return next(filter(None, map(_section_in, get_args(annotation))), None)

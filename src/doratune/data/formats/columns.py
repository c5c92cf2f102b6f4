"""Columns of a row, each with a message that says what was there instead."""

from __future__ import annotations

import difflib
from typing import Any

from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection


def column(row: Row, name: str, key: str | None = None) -> Any:
    """The value of a column.

    Args:
        row: Where to look.
        name: Name of the column.
        key: Key of the recipe that names the column, where there is one.

    Raises:
        DataError: There is no such column.
    """
    if name in row.content:
        return row.content[name]
    near = difflib.get_close_matches(name, row.content, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    where = f" ({key})" if key else ""
    raise DataError(f"column {name!r}{where} is missing; found {names(row)}{hint}")


def text(row: Row, name: str, key: str | None = None) -> str:
    """A column's text, which must not be blank.

    Raises:
        DataError: There is no such column, or no text in it.
    """
    value = column(row, name, key)
    if not isinstance(value, str):
        raise DataError(f"{name} is {short(value)}; expected text")
    if not value.strip():
        raise DataError(f"{name} is empty; fill it in, or remove the row")
    return value


def optional_text(row: Row, name: str) -> str | None:
    """A column's text; None where there is no such column, null or blank text in it.

    Raises:
        DataError: There is something else in it.
    """
    value = row.content.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{name} is {short(value)}; expected a string, null, or no such column")
    return value if value and value.strip() else None


def with_input(row: Row, asked: str) -> str:
    """What is asked and, after a blank line, Alpaca's column ``input`` where it says anything.

    Raises:
        DataError: ``input`` is no text.
    """
    more = optional_text(row, "input")
    return asked if more is None else f"{asked}\n\n{more}"


def group(row: Row, section: DataSection, asked: str) -> str:
    """The group of a row: its value of ``data.group_column``, or its source's, or what is asked.

    Raises:
        DataError: The column is missing, or holds neither a string nor an integer.
    """
    value = None
    if section.group_column is not None:
        value = column(row, section.group_column, "data.group_column")
    if value is None:
        return row.group or asked
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{section.group_column} (data.group_column) is {short(value)}; expected a string or "
            "an integer that names the group, or null for none"
        )
    return str(value)


def difficulty(row: Row, name: str) -> str | None:
    """The value of the difficulty column as text; None where it is null or blank.

    Raises:
        DataError: There is no such column, or it holds neither a string nor a number.
    """
    value = column(row, name, "data.difficulty_column")
    if value is None:
        return None
    if not isinstance(value, str | int | float):
        raise DataError(
            f"{name} (data.difficulty_column) is {short(value)}; expected a string or a number that "
            "says how hard the example is, or null"
        )
    return str(value).strip() or None


def names(row: Row) -> str:
    """The columns of a row, for a message."""
    return ", ".join(map(repr, row.content)) or "none"


def short(value: Any) -> str:
    """A value, short enough for a message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."

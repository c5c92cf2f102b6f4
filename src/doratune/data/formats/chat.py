"""``chat``: a conversation in the column ``messages``."""

from __future__ import annotations

from typing import Any

from doratune.data.formats import columns
from doratune.data.formats.draft import Draft, content_digest
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message


def read(row: Row, section: DataSection) -> Draft:
    """Reads a row.

    Raises:
        DataError: The row does not fit.
    """
    values = columns.column(row, "messages")
    if not isinstance(values, list) or not values:
        raise DataError(f"messages is {columns.short(values)}; expected a list of turns")
    turns = tuple(_turn(value, number) for number, value in enumerate(values, 1))
    _check_order(turns)
    return Draft(row, turns, None, columns.group(row, section, content_digest(turns[:-1])))


def _check_order(turns: tuple[Message, ...]) -> None:
    spoken = [turn.role for turn in turns]
    if spoken[0] == "system":
        spoken = spoken[1:]
    expected = ["user", "assistant"] * (len(spoken) // 2 + 1)
    for number, (found, wanted) in enumerate(
        zip(spoken, expected, strict=False), len(turns) - len(spoken) + 1
    ):
        if found != wanted:
            raise DataError(
                f"turn {number} is {found}, expected {wanted}; after an optional system turn, user "
                "and assistant must alternate"
            )
    if not spoken or spoken[-1] != "assistant":
        raise DataError(
            f"the last turn, {len(turns)}, is {turns[-1].role}; a conversation must end with the "
            "assistant's answer, which is what is learnt. Remove the trailing turn"
        )


def _turn(value: Any, number: int) -> Message:
    if not isinstance(value, dict):
        raise DataError(
            f"turn {number} is {columns.short(value)}; expected an object with role and content"
        )
    role, content = value.get("role"), value.get("content")
    if role in ("tool", "function") or value.get("tool_calls"):
        raise DataError(f"turn {number} uses tools (role {role!r}); tools are not supported yet")
    if role not in ("system", "user", "assistant"):
        raise DataError(f"turn {number} has role {role!r}; expected system, user or assistant")
    if not isinstance(content, str) or not content.strip():
        raise DataError(f"turn {number} has content {columns.short(content)}; expected text")
    return Message(role=role, content=content)

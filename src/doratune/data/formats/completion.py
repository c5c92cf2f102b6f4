"""``completion``: a prompt and its completion, both texts or both lists of turns."""

from __future__ import annotations

from typing import Any

from doratune.data.formats import columns, turns
from doratune.data.formats.chat import conversation
from doratune.data.formats.draft import Draft
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message


def read(row: Row, section: DataSection) -> Draft:
    """Reads a row.

    Raises:
        DataError: The row does not fit.
    """
    if str(row.content.get("label")).lower() in ("true", "false"):
        raise DataError(
            "column 'label' holds true or false, so this is unpaired preference data, whose false "
            "completions must not be learnt. Keep the true ones, and remove the column"
        )
    prompt = read_prompt(row)
    return conversation(row, section, (*prompt, *read_answer(row, "completion", len(prompt) + 1)))


def read_prompt(row: Row) -> tuple[Message, ...]:
    """The turns of the column ``prompt``; none of them is learnt.

    Text is one user turn. The column ``input`` continues it, as in Alpaca data.

    Raises:
        DataError: There is no prompt.
    """
    value = columns.column(row, "prompt")
    if isinstance(value, list):
        return turns.unlearnt(turns.read_turns(value, "prompt"))
    return (Message(role="user", content=columns.with_input(row, columns.text(row, "prompt"))),)


def read_answer(row: Row, name: str, first: int) -> tuple[Message, ...]:
    """The turns of an answer's column; text is one assistant turn.

    Raises:
        DataError: There is no answer, or it is of another kind than the prompt.
    """
    value: Any = columns.column(row, name)
    prompt = row.content.get("prompt")
    if prompt is not None and isinstance(value, list) != isinstance(prompt, list):
        raise DataError(
            f"prompt is {columns.short(prompt)}, but {name} is {columns.short(value)}; expected "
            "two texts or two lists of turns"
        )
    if isinstance(value, list):
        return turns.read_turns(value, name, first)
    return (Message(role="assistant", content=columns.text(row, name)),)

"""``alpaca``: an instruction, more input where it needs some, and the output."""

from __future__ import annotations

from doratune.data.formats import columns
from doratune.data.formats.draft import Draft
from doratune.data.read import Row
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message


def read(row: Row, section: DataSection) -> Draft:
    """Reads a row.

    Raises:
        DataError: The row does not fit.
    """
    asked = with_input(row, columns.text(row, "instruction"))
    answer = columns.text(row, "output")
    if section.labels_from_answers:
        answer = answer.strip()
    turns = (Message(role="user", content=asked), Message(role="assistant", content=answer))
    label = answer if section.labels_from_answers else None
    return Draft(row, turns, label, columns.group(row, section, asked))


def with_input(row: Row, asked: str) -> str:
    """What is asked and, after a blank line, the column ``input`` where it says anything.

    Raises:
        DataError: ``input`` is no text.
    """
    more = columns.optional_text(row, "input")
    return asked if more is None else f"{asked}\n\n{more}"

"""``alpaca``: an instruction, more input where it needs some, and the output."""

from __future__ import annotations

from doratune.data.formats import columns
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
    asked = columns.with_input(row, columns.text(row, "instruction"))
    answer = columns.text(row, "output")
    if section.labels_from_answers:
        answer = answer.strip()
    if row.content.get("history"):
        raise DataError(
            f"history is {columns.short(row.content['history'])}, which would be lost; alpaca has "
            "one question and one answer. Write the row as chat"
        )
    turns = [Message(role="user", content=asked), Message(role="assistant", content=answer)]
    system = columns.optional_text(row, "system")
    if system is not None:
        turns.insert(0, Message(role="system", content=system))
    label = answer if section.labels_from_answers else None
    return Draft(row, tuple(turns), label, columns.group(row, section, asked))

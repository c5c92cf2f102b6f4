"""``text``: plain text, learnt from its beginning to its end."""

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
    text = columns.text(row, section.text_column, "data.text_column")
    turns = (Message(role="assistant", content=text),)
    return Draft(row, turns, None, columns.group(row, section, text))

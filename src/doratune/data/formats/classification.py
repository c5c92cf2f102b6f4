"""``classification``: a text and its label."""

from __future__ import annotations

from doratune.data.formats import columns
from doratune.data.formats.draft import Draft
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message


def read(row: Row, section: DataSection) -> Draft | None:
    """Reads a row; None where its label is null.

    Raises:
        DataError: The row does not fit.
    """
    text = columns.text(row, section.text_column, "data.text_column")
    label = columns.column(row, section.label_column, "data.label_column")
    if label is None:
        return None
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise DataError(
            f"{section.label_column} is {label!r}; expected a string or an integer. "
            "Write the classes as strings."
        )
    label = str(label).strip()
    if not label:
        raise DataError(f"{section.label_column} is an empty string; use null to leave a row out")
    turns = (Message(role="user", content=text), Message(role="assistant", content=label))
    return Draft(row, turns, label, columns.group(row, section, text))

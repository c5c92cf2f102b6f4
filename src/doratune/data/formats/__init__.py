"""Rows to drafts, and drafts to examples: one file a format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from doratune.data.formats import (
    alpaca,
    chat,
    classification,
    completion,
    preference,
    sharegpt,
    text,
)
from doratune.data.formats.detect import detect_format
from doratune.data.formats.draft import Draft, Format, content_digest, to_example
from doratune.data.read import Row, refuse
from doratune.errors import DataError
from doratune.recipe.schema import DataSection

__all__ = [
    "Draft",
    "Format",
    "content_digest",
    "detect_format",
    "read_drafts",
    "to_draft",
    "to_example",
]

_READERS: dict[Format, Callable[[Row, DataSection], Draft | None]] = {
    "classification": classification.read,
    "alpaca": alpaca.read,
    "chat": chat.read,
    "sharegpt": sharegpt.read,
    "completion": completion.read,
    "preference": preference.read,
    "text": text.read,
}


def to_draft(row: Row, form: Format, section: DataSection) -> Draft | None:
    """Understands a row; None where its label is null, which means to leave it out.

    Raises:
        DataError: The row does not fit the format. The message does not repeat the row's place.
    """
    return _READERS[form](row, section)


def read_drafts(
    rows: Sequence[Row], form: Format, section: DataSection
) -> tuple[list[Draft], list[tuple[Row, str]]]:
    """Understands every row.

    Returns:
        The drafts, and the rows left out with the reason.

    Raises:
        DataError: Rows that do not fit the format; the first of them are listed with their places.
    """
    drafts: list[Draft] = []
    dropped: list[tuple[Row, str]] = []
    problems: list[str] = []
    for row in rows:
        try:
            draft = to_draft(row, form, section)
        except DataError as error:
            problems.append(f"{row.place}: {error}")
            continue
        if draft is None:
            dropped.append((row, "label is null"))
        else:
            drafts.append(draft)
    refuse(problems, f"The data, read as {form},")
    return drafts, dropped

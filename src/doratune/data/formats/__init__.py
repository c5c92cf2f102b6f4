"""Rows to drafts, and drafts to examples: one file a format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from doratune.data.formats import (
    alpaca,
    chat,
    classification,
    columns,
    completion,
    preference,
    sharegpt,
    text,
)
from doratune.data.formats.detect import detect_format
from doratune.data.formats.draft import Draft, Format, content_digest, to_example
from doratune.data.read import Row
from doratune.recipe.schema import DataSection

__all__ = [
    "Draft",
    "Format",
    "content_digest",
    "detect_format",
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
    draft = _READERS[form](row, section)
    if draft is None or section.difficulty_column is None:
        return draft
    return replace(draft, difficulty=columns.difficulty(row, section.difficulty_column))

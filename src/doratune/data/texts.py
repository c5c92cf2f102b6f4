"""Texts that have nothing to do with the task, to see what training does to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from doratune.data.formats import detect_format, to_draft
from doratune.data.questions import lowest
from doratune.data.read import Row, open_source, refuse
from doratune.errors import DataError
from doratune.recipe.schema import DataSection, SourceSection
from doratune.record.files import digest_bytes

_CHUNK_ROWS = 4096
_LOOKED_AT = 100
"""Rows by which the format is recognised."""


class Text(NamedTuple):
    """One text to read."""

    place: str
    content: str
    digest: str


def read_texts(source: str, most: int | None, seed: int) -> list[Text]:
    """The texts of a source: its column ``text``, or else all turns of its examples.

    Args:
        source: As in ``data.source``.
        most: How many are taken at most, chosen by hash; all when None.
        seed: Decides which.

    Raises:
        DataError: The source cannot be read, or holds no text.
    """
    rows = read_source(source)
    if all(isinstance(row.content.get("text"), str) for row in rows):
        found = [_text(row, row.content["text"]) for row in rows]
    else:
        found = _spoken(rows, source)
    found = [text for text in found if text.content.strip()]
    if not found:
        raise DataError(f"{source} (eval.benchmarks.texts) holds no text; at least one is needed.")
    keys = [digest_bytes(f"{seed}:{text.digest}".encode()) for text in found]
    return [found[at] for at in lowest(keys, most)]


def _spoken(rows: Sequence[Row], source: str) -> list[Text]:
    section = DataSection(source=source)
    form, _ = detect_format(rows[:_LOOKED_AT], section)
    texts: list[Text] = []
    problems: list[str] = []
    for row in rows:
        try:
            draft = to_draft(row, form, section)
        except DataError as error:
            problems.append(f"{row.place}: {error}")
            continue
        if draft is not None:
            texts.append(_text(row, draft.text))
    refuse(problems, source)
    return texts


def _text(row: Row, content: str) -> Text:
    return Text(row.place, content, digest_bytes(content.encode()))


def read_source(path: str) -> list[Row]:
    """All rows of a source of any kind.

    Raises:
        DataError: It is not there, or a row of it cannot be read.
    """
    rows: list[Row] = []
    problems: list[str] = []
    with TemporaryDirectory(prefix="doratune-") as work:
        for chunk in open_source(SourceSection(path=path), Path(work)).chunks(_CHUNK_ROWS):
            for row in chunk.rows():
                if isinstance(row, Row):
                    rows.append(row)
                else:
                    problems.append(f"{row.place}: {row.problem}")
    refuse(problems, path)
    return rows

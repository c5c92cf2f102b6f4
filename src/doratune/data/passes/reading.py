"""Sources to a store of rows: the first pass, as the main process sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from doratune.data.formats import Format, detect_format
from doratune.data.passes import survey
from doratune.data.passes.store import Columns, Store
from doratune.data.passes.workers import Workers
from doratune.data.read import Chunk, Row, Source
from doratune.errors import DataError
from doratune.progress import progress_bar
from doratune.recipe.schema import DataSection

CHUNK_ROWS = 4096
"""Most rows of a chunk."""

_LOOKED_AT = 100
"""Rows of each source by which its format is recognised."""


class Reading(NamedTuple):
    """What reading the sources gives."""

    form: Format
    reason: str
    """Why it is read as this format."""
    store: Store
    columns: Columns
    tested: NDArray[np.bool_]
    """Rows of the test source."""
    num_rows: list[int]
    """Rows of each source."""


def read_sources(
    sources: Sequence[Source],
    section: DataSection,
    tokenizer: Path,
    work: Path,
    workers: Workers,
) -> Reading:
    """Reads all sources, and looks at every row by itself.

    Args:
        sources: Those of ``data.source``, then that of ``data.test_source`` if there is one.
        section: The recipe's data section.
        tokenizer: Written by `save_tokenizer`.
        work: Folder for parts; those that an interrupted run left are used.
        workers: Do the work.

    Raises:
        DataError: A source breaks off or has too many rows, or its format is not clear.
    """
    form, reason = _detect(sources, section)
    settings = survey.Settings(section, form, tokenizer)
    store = Store(work)
    owners: list[int] = []

    def tasks() -> Iterator[tuple[Chunk, survey.Settings, Path]]:
        for number, source in enumerate(sources):
            for chunk in source.chunks(CHUNK_ROWS):
                owners.append(number)
                yield chunk, settings, store.part(len(owners) - 1)

    num_rows = [0] * len(sources)
    with progress_bar() as progress:
        task = progress.add_task("Reading rows", total=None, note="")
        for part, _ in enumerate(workers.map(survey.survey, tasks())):
            num_rows[owners[part]] += (new := store.add(owners[part]))
            progress.advance(task, new)
            if sum(num_rows) > section.max_rows:
                raise DataError(
                    f"The sources have more than {section.max_rows:,} rows (data.max_rows). Each "
                    "takes about half a kilobyte of memory. Raise data.max_rows if there is enough."
                )
    columns = store.columns()
    tested = np.zeros(len(columns.state), np.bool_)
    if section.test_source is not None:
        tested = columns.source == len(sources) - 1
    return Reading(form, reason, store, columns, tested, num_rows)


def _detect(sources: Sequence[Source], section: DataSection) -> tuple[Format, str]:
    """The common format of all sources.

    Raises:
        DataError: Their formats differ, or one is not clear.
    """
    found: dict[str, tuple[Format, str]] = {}
    for source in sources:
        chunk = next(iter(source.chunks(_LOOKED_AT)))
        rows = [row for row in chunk.rows() if isinstance(row, Row)]
        if rows:
            found[source.path] = detect_format(rows, section)
    if not found:
        return "chat" if section.format == "auto" else section.format, "no row can be read"
    (first, (form, reason)), *others = found.items()
    for path, (other, _) in others:
        if other != form:
            raise DataError(
                f"{first} is read as {form}, but {path} as {other}. All sources of a run must "
                "have one format: convert one of them, or set data.format."
            )
    return form, reason

"""Rows compared with other texts: seed documents, held-out examples, evaluation sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from doratune.data.gates import leakage, relevance
from doratune.data.gates.words import Hashes, hash_words
from doratune.data.passes.store import Store, drafts, read_batch
from doratune.data.passes.workers import Workers
from doratune.data.read import Row, open_source
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
from doratune.record.files import digest_file
from doratune.record.schemas import SPLITS

_PLAIN = (".txt", ".md")
_ROWS = 1024


def digest_texts(name: str, work: Path) -> str:
    """The SHA-256 of what `read_texts` would read.

    Raises:
        DataError: The file cannot be had.
    """
    path = Path(name)
    if path.suffix in _PLAIN and path.is_file():
        return digest_file(path)
    return open_source(SourceSection(path=name), work).digest()


def read_texts(name: str, work: Path) -> Iterator[list[str]]:
    """Reads a file in batches of texts: paragraphs of plain text, or else all strings of a row.

    Args:
        name: A ``.txt`` or ``.md`` file, or anything that may be a source of examples.
        work: Folder for what has to be on disk to be read.

    Raises:
        DataError: The file cannot be had or read.
    """
    path = Path(name)
    if path.suffix in _PLAIN and path.is_file():
        try:
            paragraphs = path.read_text(encoding="utf-8").split("\n\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"The file {name!r} cannot be read: {error}.") from error
        yield [paragraph for paragraph in paragraphs if paragraph.strip()]
        return
    for chunk in open_source(SourceSection(path=name), work).chunks(_ROWS):
        rows = list(chunk.rows())
        for row in rows:
            if not isinstance(row, Row):
                raise DataError(f"{row.place}: {row.problem}")
        yield ["\n".join(_strings(row.content)) for row in rows if isinstance(row, Row)]


def relevance_scores(
    seeds: Sequence[str], left: NDArray[np.bool_], store: Store, workers: Workers
) -> NDArray[np.float32]:
    """How much more like the seed documents than like the data each row is.

    Args:
        seeds: Files of documents.
        left: Rows to score; the others get infinity.
        store: Has their texts.
        workers: Do it.

    Raises:
        DataError: A file of documents cannot be had or read.
    """
    texts = (batch for name in seeds for batch in read_texts(name, store.folder))
    zero = np.zeros(relevance.BUCKETS, np.int64)
    liked = sum((relevance.counts(batch) for batch in texts), start=zero)
    tasks = [(store.part(number), np.flatnonzero(left[rows])) for number, rows in store.parts()]
    every = sum(workers.map(_word_counts, tasks), start=zero)
    scores = np.full(len(left), np.inf, np.float32)
    found = workers.map(_word_scores, ((*task, liked, every) for task in tasks))
    for (_, rows), (_, indices), part in zip(store.parts(), tasks, found, strict=True):
        scores[rows.start + indices] = part
    return scores


def leakage_hits(
    evaluation_sets: Sequence[str],
    ngram: int,
    splits: NDArray[np.int8],
    store: Store,
    rendered: Sequence[Path],
    workers: Workers,
) -> dict[str, NDArray[np.int32]]:
    """How many word n-grams each training row shares with the held-out splits and evaluation sets.

    Args:
        evaluation_sets: Files of examples.
        ngram: Words in a row.
        splits: Of each row, an index into `SPLITS`, or -1.
        store: Has the parts.
        rendered: The examples of each part, with their words.
        workers: Do it.

    Raises:
        DataError: An evaluation set cannot be had or read.
    """
    tables: dict[str, leakage.Table] = {}
    for number, split in enumerate(SPLITS[1:], 1):
        held_out = (
            _words(path, np.flatnonzero(splits[rows][_indices(path)] == number))
            for (_, rows), path in zip(store.parts(), rendered, strict=True)
        )
        tables[split] = leakage.Table.build(held_out, ngram)
    for name in evaluation_sets:
        texts = read_texts(name, store.folder)
        tables[name] = leakage.Table.build(map(hash_words, texts), ngram)
    paths = [store.folder / f"held-out-{number}.npy" for number in range(len(tables))]
    for table, path in zip(tables.values(), paths, strict=True):
        table.save(path)
    hits = np.zeros((len(tables), len(splits)), np.int32)
    trained = []
    for (_, rows), path in zip(store.parts(), rendered, strict=True):
        indices = _indices(path)
        chosen = np.flatnonzero(splits[rows][indices] == 0)
        trained.append((rows.start + indices[chosen], (path, chosen, paths)))
    found = workers.map(_hits, (task for _, task in trained))
    for (rows_of_train, _), part in zip(trained, found, strict=True):
        hits[:, rows_of_train] = part
    return dict(zip(tables, hits, strict=True))


def _word_counts(part: Path, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    return relevance.counts(_texts(part, indices))


def _word_scores(
    part: Path, indices: NDArray[np.int64], liked: NDArray[np.int64], every: NDArray[np.int64]
) -> NDArray[np.float64]:
    return relevance.Scorer(liked, every).scores(_texts(part, indices))


def _texts(part: Path, indices: NDArray[np.int64]) -> list[str]:
    return [draft.spoken for draft in drafts(read_batch(part).take(pa.array(indices)))]


def _hits(path: Path, chosen: NDArray[np.int64], tables: list[Path]) -> NDArray[np.int64]:
    words = _words(path, chosen)
    return np.stack([_table(table).hits(words) for table in tables])


@lru_cache(maxsize=16)
def _table(path: Path) -> leakage.Table:
    return leakage.Table.load(path)


def _words(path: Path, chosen: NDArray[np.int64]) -> Hashes:
    column = read_batch(path)["words"].take(pa.array(chosen))
    return Hashes(column.flatten().to_numpy(), column.offsets.to_numpy().astype(np.int64))


def _indices(path: Path) -> NDArray[np.int32]:
    return read_batch(path)["index"].to_numpy()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)

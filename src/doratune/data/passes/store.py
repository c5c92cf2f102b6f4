"""What is known of the rows: a few numbers each in memory, everything else in part files on disk.

A part holds the rows of one chunk, in order, as an Arrow file. Rows are numbered through all parts.
In memory a row takes less than 100 bytes; its sketch, 256 bytes, lies in a file that is mapped into
memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray
from pydantic import BaseModel

from doratune.data.formats import Draft
from doratune.data.gates.near_duplicates import WIDTH
from doratune.data.read import Row
from doratune.errors import StorageError
from doratune.record.files import replacing
from doratune.record.schemas import Message

FINE, UNREADABLE, UNFIT, UNLABELLED = range(4)
"""States of a row; only a fine one has a draft."""

_STRINGS = pa.dictionary(pa.int32(), pa.string())
ROWS = pa.schema(
    {
        "place": pa.string(),
        "row": pa.string(),  # JSON text of the row, or of what stands in its place
        "state": pa.uint8(),
        "problem": pa.string(),
        "draft": pa.string(),  # JSON text of turns, rejected answer, tools, difficulty
        "label": _STRINGS,
        "identity": pa.uint64(),
        "asked": pa.uint64(),
        "group": pa.uint64(),
        "length": pa.uint32(),  # characters
        "encoding": _STRINGS,
        "language": _STRINGS,
        "personal_data": _STRINGS,
        "sketch": pa.binary(2 * WIDTH),
    }
)
_NAMES = ("label", "encoding", "language", "personal_data")
_NUMBERS = ("state", "identity", "asked", "group", "length")

KINDS = ", "
"""Between several kinds of one gate in one row."""


class Names:
    """Strings numbered in the order in which they come; -1 stands for none."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str | None, int] = {None: -1}

    def number(self, name: str | None) -> int:
        """The number of a string, a new one if need be."""
        if name not in self._numbers:
            assert name is not None
            self._numbers[name] = len(self.all)
            self.all.append(name)
        return self._numbers[name]

    def numbers(self, column: pa.DictionaryArray) -> NDArray[np.int32]:
        """The numbers of a column."""
        known = np.array([*map(self.number, column.dictionary.to_pylist()), -1], np.int32)
        return known[column.indices.fill_null(len(column.dictionary)).to_numpy()]


class _Said(BaseModel):
    """What a draft says, as the column ``draft`` has it."""

    turns: tuple[Message, ...]
    rejected: tuple[Message, ...] | None = None
    tools: list[dict[str, Any]] | None = None
    difficulty: str | None = None


class Columns(NamedTuple):
    """The numbers of all rows, shape (rows,) each."""

    source: NDArray[np.int16]
    state: NDArray[np.uint8]
    identity: NDArray[np.uint64]
    asked: NDArray[np.uint64]
    group: NDArray[np.uint64]
    length: NDArray[np.uint32]
    label: NDArray[np.int32]
    encoding: NDArray[np.int32]
    language: NDArray[np.int32]
    personal_data: NDArray[np.int32]


class Store:
    """All parts of a survey.

    Args:
        folder: Where the parts are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = {name: Names() for name in _NAMES}
        self.starts = [0]
        """Number of the first row of each part, and of all rows."""
        self._pieces: list[dict[str, NDArray[Any]]] = []
        self._sketches = (folder / "sketches").open("wb")

    def part(self, number: int) -> Path:
        """The file of one part."""
        return self.folder / f"rows-{number:06}.arrow"

    def add(self, source: int) -> int:
        """Takes in the next part, which must be there, and returns the number of its rows."""
        batch = read_batch(self.part(len(self.starts) - 1))
        piece = {name: batch[name].to_numpy() for name in _NUMBERS}
        piece |= {name: self.names[name].numbers(batch[name]) for name in _NAMES}
        piece["source"] = np.full(len(batch), source, np.int16)
        self._pieces.append(piece)
        if batch["sketch"].null_count == 0:
            self._sketches.write(memoryview(batch["sketch"].buffers()[1]))
        self.starts.append(self.starts[-1] + len(batch))
        return len(batch)

    def columns(self) -> Columns:
        """The numbers of all rows; to be called once, when all parts are there."""
        self._sketches.close()
        columns = {}
        for name in Columns._fields:
            columns[name] = np.concatenate([piece.pop(name) for piece in self._pieces])
        return Columns(**columns)

    def sketches(self) -> NDArray[np.uint16]:
        """Sketches of all rows, mapped into memory; only where the survey made them."""
        shape = (self.starts[-1], WIDTH)
        return np.memmap(self.folder / "sketches", np.uint16, "r", shape=shape)

    def parts(self) -> Iterator[tuple[int, slice]]:
        """Number and rows of each part."""
        for number in range(len(self.starts) - 1):
            yield number, slice(self.starts[number], self.starts[number + 1])

    def place(self, row: int) -> str:
        """Where a row came from."""
        batch, index = self._find(row)
        return str(batch["place"][index])

    def problem(self, row: int) -> str:
        """Why there is no draft of a row."""
        batch, index = self._find(row)
        return str(batch["problem"][index])

    def draft(self, row: int) -> Draft:
        """The draft of a fine row."""
        batch, index = self._find(row)
        (draft,) = drafts(batch.slice(index, 1))
        return draft

    def _find(self, row: int) -> tuple[pa.RecordBatch, int]:
        number = int(np.searchsorted(self.starts, row, "right")) - 1
        return read_batch(self.part(number)), row - self.starts[number]


def drafts(batch: pa.RecordBatch) -> list[Draft]:
    """The drafts of some rows of a part; all of them must be fine."""
    made = []
    columns = (batch[name].to_pylist() for name in ("draft", "label", "place"))
    for text, label, place in zip(*columns, strict=True):
        said = _Said.model_validate_json(text)
        rest = (said.rejected, said.tools, said.difficulty)
        made.append(Draft(Row({}, place), said.turns, label, "", *rest))
    return made


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """Writes a part, whole or not at all."""
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, batch.schema, options=options) as writer,
    ):
        writer.write_batch(batch)


def read_batch(path: Path) -> pa.RecordBatch:
    """Reads a part.

    Raises:
        StorageError: It is gone or damaged.
    """
    try:
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(
            f"The working file {path} cannot be read: {error}. Delete the folder {path.parent} and "
            "run the command again."
        ) from error

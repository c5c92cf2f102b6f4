"""The door: what a recipe names as a source, opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from doratune.data.read.json_lines import JsonLines
from doratune.data.read.rows import Chunk
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
from doratune.record.files import digest_file


@dataclass(frozen=True)
class Source:
    """One source that is there and of a known kind; nothing of it is in memory."""

    path: str
    """As the recipe has it."""
    kind: str
    """``jsonl``, ``json``, ``csv``, ``tsv``, ``parquet``, ``arrow``, ``hub`` or ``builtin``."""
    weight: float
    _read: Callable[[int], Iterator[Chunk]]
    _digest: Callable[[], str]

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Reads the source from its start.

        Args:
            size: Most rows in a chunk; there are fewer where rows are large (1 MiB a chunk, or one row).

        Raises:
            DataError: The source as a whole is broken or holds no row.
        """
        return self._read(size)

    def digest(self) -> str:
        """The SHA-256 of the bytes, in hexadecimal."""
        return self._digest()


def open_source(section: SourceSection, work: Path) -> Source:
    """Finds a source and sees what kind it is.

    Args:
        section: The recipe's words.
        work: Folder for what has to be on disk to be read, such as standard input.

    Raises:
        DataError: It is missing, empty, or of an unknown kind.
    """
    path = Path(section.path)
    if not path.is_file():
        raise DataError(f"There is no data file {section.path!r}.")

    def read(size: int) -> Iterator[Chunk]:
        with path.open("rb") as file:
            first = 1
            while lines := file.read().split(b"\n"):
                for start in range(0, len(lines), size):
                    yield JsonLines(section.path, first + start, lines[start : start + size])
                return

    return Source(section.path, "jsonl", section.weight, read, lambda: digest_file(path))

"""JSON Lines: one object a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from doratune.data.read.json_value import parse_object
from doratune.data.read.rows import Row, Unreadable
from doratune.data.read.streams import DataFile


class JsonLines(NamedTuple):
    """Some lines of a JSON Lines file."""

    name: str
    first: int
    """Number of the first line, from 1."""
    lines: list[bytes]

    def rows(self) -> list[Row | Unreadable]:
        """One for each line that is not blank."""
        return [
            parse_object(line, f"{self.name}:{number}")
            for number, line in enumerate(self.lines, self.first)
            if line and not line.isspace()
        ]


def read_json_lines(file: DataFile, size: int) -> Iterator[JsonLines]:
    """Cuts a file into chunks of ``size`` lines at most."""
    for first, piece in file.whole_lines():
        if piece.isspace():
            continue
        lines = piece.split(b"\n")
        for start in range(0, len(lines), size):
            yield JsonLines(file.name, first + start, lines[start : start + size])

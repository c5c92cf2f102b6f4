"""JSON Lines: one object a line."""

from __future__ import annotations

from typing import NamedTuple

from doratune.data.read.json_value import parse_object
from doratune.data.read.rows import Row, Unreadable


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

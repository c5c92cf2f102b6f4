"""What reading gives: rows, lines that are none, and the limits of both."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from doratune.errors import DataError

MAX_ROW_BYTES = 16 << 20
"""A larger row is a mistake, such as a file without line ends, and would take the memory of many."""
MAX_RAW = 1000
"""Characters of an unreadable line that are kept."""

_SHOWN = 5


class Row(NamedTuple):
    """One row of a source, as it stands there."""

    content: dict[str, Any]
    """JSON values only."""
    place: str
    """``file:line``, ``file[index]`` for a JSON list, ``file:row N`` where there are no lines."""
    group: str | None = None
    """Rows of one group go to one split; without it, rows of one prompt do."""


class Unreadable(NamedTuple):
    """What stands where a row was expected."""

    place: str
    problem: str
    """What was found, what was expected, and the column where there is one."""
    raw: str
    """The first 1,000 characters of it."""


class Chunk(Protocol):
    """Some rows of a source, not parsed yet. Can be pickled: workers do the parsing."""

    def rows(self) -> list[Row | Unreadable]:
        """Parses the rows, in the order of the source."""


class Made(NamedTuple):
    """Rows that need no parsing."""

    made: list[Row]

    def rows(self) -> list[Row | Unreadable]:
        """The rows."""
        return list(self.made)


def refuse(problems: list[str], what: str) -> None:
    """Raises one error for all problems of a source, if there are any.

    Raises:
        DataError: There are; the first five are listed.
    """
    if not problems:
        return
    shown = [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        shown.append(f"  and {len(problems) - _SHOWN:,} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    raise DataError("\n".join([f"{what} has {count}:", *shown]))


def excerpt(text: str, position: int = 0) -> str:
    """The text around a position, short enough for a message."""
    start, stop = max(0, position - 20), position + 20
    return repr(text[start:stop].strip())


def shorten(text: str) -> str:
    """The first 100 characters of a text."""
    return text if len(text) <= 100 else f"{text[:100]}…"


def unreadable(place: str, problem: str, data: bytes) -> Unreadable:
    """What is wrong at a place, with the start of its bytes."""
    # A character takes four bytes at most.
    return Unreadable(place, problem, data[: 4 * MAX_RAW].decode(errors="replace")[:MAX_RAW])


def too_large(place: str, what: str) -> DataError:
    """The error of a row larger than `MAX_ROW_BYTES`."""
    return DataError(
        f"{place}: the {what} that starts here is larger than {MAX_ROW_BYTES >> 20} MiB; expected one "
        "example. Is a line end or a closing quote missing?"
    )

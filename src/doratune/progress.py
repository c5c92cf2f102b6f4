"""The terminal: progress on standard error, silent where nobody watches; and what may be printed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

console = Console(stderr=True)

_BIDIRECTIONAL = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def progress_bar(*, hidden: bool = False) -> Progress:
    """A bar with count and remaining time, which vanishes when it is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=hidden or not console.is_terminal,
    )


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yields the items, advancing a bar."""
    with progress_bar() as progress:
        task = progress.add_task(description, total=total, note="")
        for item in items:
            yield item
            progress.advance(task)


def visible(text: str) -> str:
    """The text with every control character shown as a sign, so that none reaches the terminal."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or (code >= 32 and character.isascii() and code != 127):
        return character
    if code < 32:
        return chr(0x2400 + code)
    if code in _BIDIRECTIONAL or unicodedata.category(character) in ("Cc", "Cs"):
        return f"<U+{code:04X}>"
    return character

"""Personal data and secrets in a text."""

from __future__ import annotations

from typing import NamedTuple


class Found(NamedTuple):
    """A stretch of a text: ``text[start:end]``."""

    kind: str
    """Such as ``e-mail``; a key of `MASKS`."""
    start: int
    end: int


MASKS = {"e-mail": "[EMAIL]"}
"""What `mask` puts in the place of each kind."""


def find(text: str) -> list[Found]:
    """All finds, in order, none overlapping another."""
    raise NotImplementedError


def mask(text: str) -> str:
    """The text with every find replaced. Masking twice is masking once."""
    raise NotImplementedError

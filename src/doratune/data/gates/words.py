"""Texts to hashed words and hashed word n-grams, many texts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Hashes(NamedTuple):
    """Hashes of several texts in one array."""

    values: NDArray[np.uint64]
    """Those of the first text, then those of the second, and so on."""
    offsets: NDArray[np.int64]
    """Shape (texts + 1,): text ``i`` has ``values[offsets[i]:offsets[i + 1]]``."""


def words(texts: Sequence[str]) -> Hashes:
    """Hash of every word, in order."""
    raise NotImplementedError


def ngrams(texts: Sequence[str], n: int, at_least: int) -> Hashes:
    """Hash of every ``n`` words in a row.

    A text with fewer than ``n`` words, but at least ``at_least``, has one hash, of all its words.
    """
    raise NotImplementedError

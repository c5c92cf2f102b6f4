"""Training examples that share an n-gram of words with held-out ones or with evaluation sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from doratune.data.gates.words import Hashes

MIN_WORDS = 5
"""Texts with fewer words have no n-gram at all."""


def ngrams(texts: Sequence[str], n: int) -> Hashes:
    """Hashed n-grams of words, lower-cased and without punctuation."""
    raise NotImplementedError


class Table:
    """A set of n-gram hashes, sorted; in memory or in a file."""

    def __init__(self, sorted_hashes: NDArray[np.uint64]) -> None:
        raise NotImplementedError

    @classmethod
    def build(cls, hashes: Iterable[NDArray[np.uint64]]) -> Table:
        """Makes a table of hashes in any order, repeats allowed."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path) -> Table:
        """Maps a file written by `save` into memory."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Writes the table."""
        raise NotImplementedError

    def hits(self, ngrams: Hashes) -> NDArray[np.int64]:
        """How many n-grams of each text are in the table."""
        raise NotImplementedError

"""Training examples that share an n-gram of words with held-out ones or with evaluation sets.

Why it matters: what was seen in training is remembered in the test, and the figures measure
memory. Sharing 13 words in a row is the usual rule (Brown et al. 2020); such a run is a quotation,
hardly ever chance. Words are those of `words`: case, punctuation and accents' encoding do not
count. A text of 5 to 12 words is compared as a whole; a shorter one is not compared at all.

Limits: templates, boilerplate clauses and popular quotations are shared without being leaks; a
prompt template belongs outside the texts compared. A paraphrase or a translation is not found, nor
a short text inside a longer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from doratune.data.gates import words
from doratune.data.gates.words import Hashes, hash_words

MIN_WORDS = 5
"""Texts with fewer words have no n-gram at all: "yes, of course" is no leak."""


def ngrams(texts: Sequence[str], n: int) -> Hashes:
    """Hashed n-grams of words, lower-cased and without punctuation."""
    return words.ngrams(hash_words(texts), n, at_least=min(n, MIN_WORDS))


class Table:
    """A set of n-gram hashes, sorted; in memory or in a file."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes
        """Sorted, without repeats."""

    def __len__(self) -> int:
        return len(self._hashes)

    @classmethod
    def build(cls, hashes: Iterable[NDArray[np.uint64]]) -> Table:
        """Makes a table of hashes in any order, repeats allowed."""
        return cls(np.unique(np.concatenate([np.empty(0, np.uint64), *hashes])))

    @classmethod
    def load(cls, path: Path) -> Table:
        """Maps a file written by `save` into memory."""
        return cls(np.load(path, mmap_mode="r"))

    def save(self, path: Path) -> None:
        """Writes the table, 8 bytes a hash."""
        with path.open("wb") as file:
            np.save(file, self._hashes)

    def hits(self, ngrams: Hashes) -> NDArray[np.int64]:
        """How many n-grams of each text are in the table."""
        place = np.searchsorted(self._hashes, ngrams.values)
        place[place == len(self._hashes)] = 0
        known = self._hashes[place] == ngrams.values if len(self) else np.zeros(len(place), bool)
        before = np.append(0, np.cumsum(known))
        return np.diff(before[ngrams.offsets])

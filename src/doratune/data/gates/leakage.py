"""Training examples that share a run of words with held-out ones or with evaluation sets.

Why it matters: what was seen in training is remembered in the test, and the figures measure
memory. Sharing 13 words in a row is the usual rule (Brown et al. 2020). Words are those of `words`:
case, punctuation and accents' encoding do not count.

Boilerplate does not count either. A phrase of five words that more than 10 held-out texts have in
common (a fifth of them where there are fewer than 50, one in 1,000 where there are more than 10,000)
is a template or a turn of speech; its words are taken out on both sides, and 13 in a row of the
others are looked for. Without this, every one of the 40,398
WinoGrande training rows shares 13 words with the test rows: those of the prompt. With it, three do.

A text of which 5 to 12 words are left is compared as a whole; with fewer left, the whole text
counts, if it has 5 words.

Limits: paraphrases and translations are not found, nor a short text inside a longer one. Popular
quotations are shared without being leaks. A passage that stands in more than 10 held-out texts
counts as boilerplate, the questions about it do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from doratune.data.gates.words import Hashes, ngrams, selected, wholes

MIN_WORDS = 5
"""Texts with fewer words are not compared: "yes, of course" is no leak."""

_PHRASE = 5


class Table:
    """What the held-out texts are made of; in memory or in a file."""

    def __init__(self, n: int, common: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> None:
        self._n = n
        self._common = common
        """Hashes of phrases that are boilerplate, sorted."""
        self._hashes = hashes
        """Of runs of ``n`` words and of short texts, sorted."""

    def __len__(self) -> int:
        return len(self._hashes)

    @classmethod
    def build(cls, held_out: Iterable[Hashes], n: int) -> Table:
        """Makes a table.

        Args:
            held_out: Words of the held-out texts, some texts at a time.
            n: Words in a row that make a leak.
        """
        batches = list(held_out)
        phrases = [np.empty(0, np.uint64)]
        for words in batches:
            values, offsets = ngrams(words, _PHRASE, at_least=_PHRASE)
            owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            order = np.lexsort((owners, values))
            values, owners = values[order], owners[order]
            # Once for each text that has it.
            again = (values[1:] == values[:-1]) & (owners[1:] == owners[:-1])
            phrases.append(values[np.append(True, ~again)[: len(values)]])
        known, number = np.unique(np.concatenate(phrases), return_counts=True)
        num_texts = sum(len(words.offsets) - 1 for words in batches)
        rare = max(2, min(10, num_texts / 5), num_texts / 1000)
        table = cls(n, known[number > rare], known[:0])
        hashes = [known[:0]]
        for words in batches:
            runs, short = table._split(words)
            hashes += [runs.values, short[short != 0]]
        table._hashes = np.unique(np.concatenate(hashes))
        return table

    @classmethod
    def load(cls, path: Path) -> Table:
        """Maps a file written by `save` into memory."""
        numbers = np.load(path, mmap_mode="r")
        begin = 2 + int(numbers[1])
        return cls(int(numbers[0]), np.array(numbers[2:begin]), numbers[begin:])

    def save(self, path: Path) -> None:
        """Writes the table, 8 bytes a hash."""
        head = np.array([self._n, len(self._common)], np.uint64)
        with path.open("wb") as file:
            np.save(file, np.concatenate([head, self._common, self._hashes]))

    def hits(self, words: Hashes) -> NDArray[np.int64]:
        """How many runs of each text are in the table."""
        runs, short = self._split(words)
        before = np.append(0, np.cumsum(_among(runs.values, self._hashes)))
        return np.diff(before[runs.offsets]) + ((short != 0) & _among(short, self._hashes))

    def _split(self, words: Hashes) -> tuple[Hashes, NDArray[np.uint64]]:
        """Runs of the words that are no boilerplate; hashes of the texts that have too few, else 0."""
        values, offsets = ngrams(words, _PHRASE, at_least=_PHRASE)
        places = np.arange(len(values)) + np.repeat(
            words.offsets[:-1] - offsets[:-1], np.diff(offsets)
        )
        begins = places[_among(values, self._common)]
        kept = np.ones(len(words.values), np.bool_)
        for step in range(_PHRASE):
            kept[begins + step] = False
        left = selected(words, kept)
        few = (np.diff(left.offsets) < MIN_WORDS) & (np.diff(words.offsets) >= MIN_WORDS)
        return ngrams(left, self._n, at_least=MIN_WORDS), np.where(few, wholes(words), 0)


def _among(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which values are in a sorted array."""
    found = np.zeros(len(values), np.bool_)
    if len(known):
        # In order, 0.1 microseconds each; in disorder and among 5 million, 1.
        order = np.argsort(values)
        place = np.searchsorted(known, values[order])
        place[place == len(known)] = 0
        found[order] = known[place] == values[order]
    return found

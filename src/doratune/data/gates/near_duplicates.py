"""Examples with nearly the same words.

Why it matters: a text seen many times is learnt by heart, and a near copy in the test set makes
the test easy. What is compared is the set of word 3-grams of each text (case, punctuation and
their number do not count; a text of one or two words has one gram, of all its words). The
similarity of two texts is the share of grams that they have in common, of all that either has
(Jaccard): with the default of 0.8, one word changed in the middle of 30 is found (0.81), two are
not (0.65).

How: a MinHash sketch of 128 numbers a text, by rensa; texts that agree in a whole band of the
sketch are candidates, and candidates are compared by their sketches. The estimate has a standard
deviation of 0.03 at 0.8, so pairs close to the threshold fall on either side of it.

Limits: texts that share a long template are near copies by this measure, whatever they fill in.
Paraphrases are not found. Groups are transitive, so the ends of a chain may be less alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import rensa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from doratune.data.gates.words import FACTOR, hash_words, ngrams

WIDTH = 128
"""Numbers per sketch, two bytes each."""

_SHINGLE = 3
_SEED = 42

_SLAB = 128
"""Texts sketched at a time. With more, rensa starts threads, which a forked worker would wait for
forever; and the lists that it returns fall out of the cache (7 microseconds a text, not 13)."""

_MIN_RECALL = 0.995
"""Share of the pairs at the threshold that must become candidates."""

_NEAR = 16
"""Texts of a band's group with which each text is compared at most. Groups are larger than that where
texts share a template, and what is missed there is found in another band: of 1,000 planted pairs none
is lost that comparing all in groups of 32, with ten times the comparisons, would find."""

_PAIRS = 1 << 16
"""Pairs compared at a time: 34 MB of arrays."""


def sketch(texts: Sequence[str]) -> NDArray[np.uint16]:
    """MinHash sketches, shape (texts, `WIDTH`). Each depends on its own text alone."""
    sketches = np.empty((len(texts), WIDTH), np.uint16)
    for begin in range(0, len(texts), _SLAB):
        slab = texts[begin : begin + _SLAB]
        values, offsets = ngrams(hash_words(slab), _SHINGLE, at_least=1)
        digests = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
            values, offsets, WIDTH, _SEED
        ).to_rows()
        # Two texts without words are alike only when they are equal: "!!!" and "???" are not.
        for row in np.flatnonzero(np.diff(offsets) == 0).tolist():
            text = slab[row].strip().encode("utf-8", "surrogatepass")
            digests[row] = np.frombuffer(hashlib.shake_128(text).digest(4 * WIDTH), np.uint32)
        # The low 16 bits agree by chance once in 65,536 times, far below the sketch's own error.
        sketches[begin : begin + len(slab)] = np.array(digests, np.uint32).astype(np.uint16)
    return sketches


def clusters(sketches: NDArray[np.uint16], threshold: float) -> NDArray[np.int64]:
    """Groups texts that are nearly the same, directly or through others.

    Args:
        sketches: Shape (texts, `WIDTH`); may be memory-mapped.
        threshold: Jaccard similarity from which two texts are nearly the same.

    Returns:
        Shape (texts,): the index of the first text of the same group; of itself for a text alone.
    """
    whole = _combined(sketches, range(WIDTH), np.arange(len(sketches)))
    _, firsts, which = np.unique(whole, return_index=True, return_inverse=True)
    search = _Search(sketches, threshold)
    search.run(np.sort(firsts))
    return search.first_of_group()[firsts[which]]


def bands(threshold: float) -> list[range]:
    """Which numbers of a sketch form a band.

    Bands are as long as they can be with `_MIN_RECALL`: two texts at the threshold agree in at
    least one of ``b`` bands of ``r`` numbers with probability ``1 - (1 - threshold ** r) ** b``.
    """
    for length in range(WIDTH, 1, -1):
        number = WIDTH // length
        if 1 - (1 - threshold**length) ** number >= _MIN_RECALL:
            return [range(i * length, (i + 1) * length) for i in range(number)]
    return [range(i, i + 1) for i in range(WIDTH)]


class _Search:
    """Finds pairs of texts that are similar enough, and joins them."""

    def __init__(self, sketches: NDArray[np.uint16], threshold: float) -> None:
        self._sketches = sketches
        self._needed = math.ceil(threshold * WIDTH - 1e-9)
        self._bands = bands(threshold)
        self._group = np.arange(len(sketches))
        self._links: list[NDArray[np.int64]] = []

    def run(self, rows: NDArray[np.int64]) -> None:
        """Compares the rows that agree in some band."""
        before = np.zeros(len(rows), np.uint64)
        for band in self._bands:
            self._regroup()
            keys = _combined(self._sketches, band, rows)
            # In a large group, those next to each other agree in the band before, too.
            order = np.lexsort((before, keys))
            self._compare_neighbours(keys[order], rows[order])
            before = keys

    def first_of_group(self) -> NDArray[np.int64]:
        """Index of the first text of each text's group."""
        self._regroup()
        _, firsts = np.unique(self._group, return_index=True)
        return firsts[self._group]

    def _compare_neighbours(self, keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        """Compares each row with the first one of its key, and with the next `_NEAR` ones."""
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        sizes = np.diff(np.append(starts, len(keys)))
        large = np.repeat(sizes > _NEAR, sizes)
        self._join(rows[np.repeat(starts, sizes)[large]], rows[large])
        places = np.arange(len(keys))
        for step in range(1, _NEAR + 1):
            places = places[: np.searchsorted(places, len(keys) - step)]
            places = places[keys[places + step] == keys[places]]
            if not len(places):
                return
            self._join(rows[places], rows[places + step])

    def _join(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        """Joins the pairs that are similar enough."""
        unknown = self._group[left] != self._group[right]
        left, right = left[unknown], right[unknown]
        for begin in range(0, len(left), _PAIRS):
            a, b = left[begin : begin + _PAIRS], right[begin : begin + _PAIRS]
            equal = np.count_nonzero(self._sketches[a] == self._sketches[b], axis=1)
            similar = equal >= self._needed
            self._links.append(np.stack([a[similar], b[similar]]))

    def _regroup(self) -> None:
        """Takes the new links into the groups."""
        links = np.concatenate([np.empty((2, 0), np.int64), *self._links], axis=1)
        graph = coo_array((np.ones(links.shape[1]), links), 2 * self._group.shape)
        _, self._group = connected_components(graph, directed=False)


def _combined(
    sketches: NDArray[np.uint16], columns: range, rows: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """One hash of several numbers of each sketch."""
    keys = np.zeros(len(rows), np.uint64)
    for part in np.array_split(np.arange(len(rows)), len(rows) // _PAIRS + 1):
        numbers = sketches[:, columns.start : columns.stop][rows[part]]
        for column in numbers.T:
            keys[part] = keys[part] * FACTOR + column
    return keys

"""Which example goes where: by hash, so that new rows move no old ones.

A row's split depends on itself and the rows before it, never on a later one. Three things decide:

    group       Rows of one group (the user's column, or else one prompt) go together, and so do near
                duplicates.
    hash        A new group falls into test, validation or train by its hash and the seed.
    label       Where that would take a label's held-out groups further from its share of the groups so
                far than one group or a tenth, the hash is overruled: so the split is stratified.

No split can be all of stratified, unmoved by appended rows and independent of the order of rows. This
one gives up the third where there are labels: of 2,000 rows with ten labels, shuffled, one in seven
changes its split; of 100,000, one in 150. Data without labels goes by the hash alone, but for one group
where a held-out split would be empty though its share is three groups by now: chance leaves one in
twenty so, and it would stop small runs.

A row whose group stands in one split and whose near duplicates stand in another cannot be put anywhere;
it is left out. So is a row that is near the test source, which is what it is: the row alone, for
otherwise one clause that many contracts have would take each of them out of training.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from doratune.data.gates.words import mixed
from doratune.errors import DataError
from doratune.record.schemas import SPLITS, Split

TRAIN, VALIDATION, TEST = range(3)
"""Indices into `SPLITS`."""
NOWHERE = -1
"""The split of a row that is in none."""

_SLACK_GROUPS = 1.0
_SLACK_SHARE = 0.1
"""How far a label's part of a held-out split may be from its share: in groups, and as a part of it."""

_OVERDUE = 3
"""Share of the groups so far, in groups, from which an empty held-out split gets the next one."""

_SMALL = 1000
"""Rows of a cluster up to which each is compared with all before it; above, all count as alike."""


class Shares(NamedTuple):
    """Shares of the groups that are held out."""

    validation: float
    test: float


class Clusters(NamedTuple):
    """What is known of near duplicates."""

    first: NDArray[np.int64]
    """The first row of each row's cluster."""
    sketches: NDArray[np.uint16]
    threshold: float
    """Share of equal numbers in two sketches from which they are near duplicates."""


def points(hashes: NDArray[np.uint64], seed: int, use: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each hash, evenly spread.

    Args:
        hashes: Themselves spread evenly, such as parts of digests.
        seed: Another seed gives other numbers.
        use: What the numbers are for; they are independent for each use.
    """
    salt = np.frombuffer(f"{use} {seed}".encode().ljust(64, b"\0")[:64], np.uint64)
    salted = hashes
    for word in salt:
        salted = mixed(salted ^ word)
    return (salted >> np.uint64(11)).astype(np.float64) * 2.0**-53


def assign(
    rows: NDArray[np.int64],
    groups: NDArray[np.uint64],
    labels: NDArray[np.int32] | None,
    tested: NDArray[np.bool_],
    clusters: Clusters | None,
    shares: Shares,
    seed: int,
) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Splits rows.

    Args:
        rows: Those to split, in order.
        groups: Hash of each row's group.
        labels: Number of each row's label, None for data without labels.
        tested: Rows of the test source, which go to test whatever their hash.
        clusters: Near duplicates, None where they were not looked for.
        shares: How much is held out.
        seed: Another seed gives another split.

    Returns:
        The split of each row, an index into `SPLITS`, or `NOWHERE`, with `TEST` for rows that are near
        the test source or of a group in it; and which rows are nowhere because
        their group or their near duplicates are in different splits.
    """
    hashed = _by_hash(points(groups, seed, "split"), shares)
    splits = np.full(len(groups), NOWHERE, np.int8)
    torn = np.zeros(len(groups), np.bool_)
    _, group = np.unique(groups, return_inverse=True)
    dealer = _Dealer(shares)
    near = _Neighbours(clusters, rows, splits)
    if labels is None:
        _fill_empty(hashed, rows, groups, shares)
        splits[rows] = hashed[rows]
        # Whoever has nothing to do with others is done; of a million short texts that is nearly all.
        related = np.zeros(group.max(initial=-1) + 1, np.bool_)
        related[group[rows[tested[rows] | near.has_any(rows)]]] = True
        rows = rows[related[group[rows]]]
    splits[rows] = NOWHERE
    of_group = np.full(group.max(initial=-1) + 1, NOWHERE, np.int8)
    has_test_source = bool(tested[rows].any())
    for row in (*rows[tested[rows]].tolist(), *rows[~tested[rows]].tolist()):
        found = near.splits_of(row)
        if (own := of_group[group[row]]) != NOWHERE:
            found.add(int(own))
        if tested[row]:
            split = TEST
        elif TEST in found and has_test_source:
            splits[row] = TEST
            continue
        elif not found:
            split = int(hashed[row])
            if labels is not None:
                split = dealer.deal(int(labels[row]), split)
        elif len(found) == 1:
            (split,) = found
            if own == NOWHERE and labels is not None:
                dealer.note(int(labels[row]), split)
        else:
            torn[row] = True
            continue
        splits[row] = of_group[group[row]] = split
        near.add(row)
    return splits, torn


def sample(
    hashes: NDArray[np.uint64], copies: NDArray[np.int64], number: int | None, seed: int
) -> NDArray[np.int64]:
    """Takes at most ``number`` examples, copies counted, by hash.

    Args:
        hashes: Identity of each example.
        copies: How often each would be taken.
        number: Most examples; None for all.
        seed: Another seed gives another sample.

    Returns:
        How often each is taken.
    """
    if number is None or copies.sum() <= number:
        return copies
    owners = np.repeat(np.arange(len(copies)), copies)
    copy = np.arange(len(owners)) - np.repeat(np.cumsum(copies) - copies, copies)
    order = np.argsort(points(mixed(hashes[owners]) + copy.astype(np.uint64), seed, "sample"))
    return np.bincount(owners[order[:number]], minlength=len(copies))


def copies_of(hashes: NDArray[np.uint64], weight: float, seed: int) -> NDArray[np.int64]:
    """How often each example is taken: the weight's whole part, and once more for its fraction."""
    whole = int(weight)
    return whole + (points(hashes, seed, "weight") < weight - whole).astype(np.int64)


def check_splits(
    counts: Mapping[Split, int],
    by_label: Mapping[Split, Counter[str]],
    labels: list[str] | None,
    needed: Iterable[Split],
) -> None:
    """Refuses splits that nothing could be learnt from or measured on.

    Raises:
        DataError: A needed split is empty, or a label of the closed set has no training example.
    """
    told = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    for split in needed:
        if not counts[split]:
            raise DataError(
                f"The {split} split is empty ({told}). Give more examples, or change "
                "data.validation_share, data.test_share, data.max_examples or data.max_length."
            )
    for label in labels or []:
        if by_label["train"][label] == 0:
            held_out = by_label["validation"][label] + by_label["test"][label]
            raise DataError(
                f"The label {label!r} has no example in the train split and {held_out} in "
                f"validation and test ({told}), so it cannot be learnt. Give more examples "
                "of it, raise data.min_label_count or data.max_examples, or name it in "
                "data.exclude_labels."
            )


class _Dealer:
    """Keeps each label's held-out groups close to its share, in the order of the rows."""

    def __init__(self, shares: Shares) -> None:
        self._shares = {TEST: shares.test, VALIDATION: shares.validation}
        self._groups: Counter[int] = Counter()
        self._held_out = {TEST: Counter[int](), VALIDATION: Counter[int]()}

    def deal(self, label: int, hashed: int) -> int:
        """The split of a new group, given the one that its hash says."""
        split = hashed
        for held_out, groups in self._held_out.items():
            share = self._shares[held_out] * (self._groups[label] + 1)
            slack = max(_SLACK_GROUPS, _SLACK_SHARE * share)
            if split == held_out and groups[label] + 1 > share + slack:
                split = TRAIN
            elif groups[label] < share - slack:
                split = held_out
                break
        self.note(label, split)
        return split

    def note(self, label: int, split: int) -> None:
        """Counts a group whose split was decided, here or elsewhere."""
        self._groups[label] += 1
        if split != TRAIN:
            self._held_out[split][label] += 1


class _Neighbours:
    """The splits of the near duplicates that stand before a row."""

    def __init__(
        self, clusters: Clusters | None, rows: NDArray[np.int64], splits: NDArray[np.int8]
    ) -> None:
        self._clusters = clusters
        self._splits = splits
        self._members: defaultdict[int, list[int]] = defaultdict(list)
        self._sizes = np.zeros(0, np.int64)
        if clusters is not None:
            self._sizes = np.bincount(clusters.first[rows], minlength=len(splits))

    def has_any(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows have near duplicates, before or after them."""
        if self._clusters is None:
            return np.zeros(len(rows), np.bool_)
        return self._sizes[self._clusters.first[rows]] > 1

    def splits_of(self, row: int) -> set[int]:
        """Splits of the earlier near duplicates of a row."""
        if self._clusters is None:
            return set()
        first = int(self._clusters.first[row])
        members = self._members.get(first)
        if not members:
            return set()
        if self._sizes[first] > _SMALL:
            return {int(self._splits[members[0]])}
        sketches = self._clusters.sketches
        equal = (sketches[members] == sketches[row]).mean(axis=1)
        return set(self._splits[members][equal >= self._clusters.threshold].tolist())

    def add(self, row: int) -> None:
        """Makes a row, whose split is known, count from now on."""
        if self._clusters is not None:
            first = int(self._clusters.first[row])
            if self._sizes[first] > 1 and (
                self._sizes[first] <= _SMALL or not self._members[first]
            ):
                self._members[first].append(row)


def _by_hash(point: NDArray[np.float64], shares: Shares) -> NDArray[np.int8]:
    """Test first, so that a larger validation share moves nothing out of test."""
    held_out = np.where(point < shares.test + shares.validation, VALIDATION, TRAIN)
    return np.where(point < shares.test, TEST, held_out).astype(np.int8)


def _fill_empty(
    hashed: NDArray[np.int8], rows: NDArray[np.int64], groups: NDArray[np.uint64], shares: Shares
) -> None:
    """Moves the group with which a held-out split is overdue into it, if none before it is there."""
    _, first = np.unique(groups[rows], return_index=True)
    new_groups = rows[np.sort(first)]
    for split, share in ((TEST, shares.test), (VALIDATION, shares.validation)):
        number = math.ceil(_OVERDUE / share) if share else len(new_groups) + 1
        if number <= len(new_groups) and not (hashed[new_groups[:number]] == split).any():
            hashed[groups == groups[new_groups[number - 1]]] = split

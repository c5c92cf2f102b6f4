"""Near duplicates and the split: one must not tear the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from doratune.data.gates import near_duplicates
from doratune.data.judge import Judge, Mask
from doratune.data.passes.store import FINE
from doratune.data.split import TEST, Clusters, Shares, assign


def deal(judge: Judge, seed: int) -> NDArray[np.int8]:
    """Looks for near duplicates, and splits the rows so that none are torn apart.

    Left out are, whatever the gate's action, rows that ask what the test source asks and rows that
    could be nowhere without their group or their near duplicates being in two splits.

    Args:
        judge: Has judged what needs no split.
        seed: Another seed gives another split.

    Returns:
        The split of each row, an index into `SPLITS`, or `NOWHERE`.
    """
    sieve, columns, section = judge.sieve, judge.columns, judge.section
    options = section.gates.near_duplicates
    prompts = columns.asked[sieve.left & judge.tested]
    sieve.drop(
        np.isin(columns.asked, prompts) & ~judge.tested, "test_source", "prompt also in test"
    )
    clusters = None
    if options.action != "off":
        sketches = judge.store.sketches()
        first = near_duplicates.clusters(sketches, options.threshold)
        clusters = Clusters(first, sketches, options.threshold)
    test_share = 0.0 if section.test_source is not None else section.test_share
    splits, torn = assign(
        np.flatnonzero(_dealt(judge)),
        columns.group,
        columns.label if (columns.label >= 0).any() else None,
        judge.tested,
        clusters,
        Shares(section.validation_share, test_share),
        seed,
    )
    reason = "group or near duplicates in different splits"
    crossing = sieve.drop(torn, "near_duplicates", reason)
    if section.test_source is not None:
        reason = "group or near duplicate in the test source"
        crossing += sieve.drop((splits == TEST) & ~judge.tested, "near_duplicates", reason)
    if clusters is None:
        sieve.skip("near_duplicates", options)
        return splits
    keepers = _longest(clusters.first, columns.length, sieve.left)
    sieve.judge(
        "near_duplicates",
        options,
        (keepers >= 0) & (keepers != np.arange(len(keepers))),
        lambda row: f"nearly the same as {judge.store.place(int(keepers[row]))}",
        "near duplicate",
        dropped=crossing,
        note=f"{crossing:,} would have been in two splits." if crossing else "",
    )
    return splits


def _dealt(judge: Judge) -> Mask:
    """Rows that have a place in the split.

    So do those that a gate dropped, since what a gate drops may depend on rows that come later. Only
    repeats have none: they say nothing of their own. Nor has what is asked in the test source.
    """
    without = [gate == "duplicates" or gate == "test_source" for gate, _ in judge.sieve.reasons]
    return (judge.columns.state == FINE) & ~np.array([*without, False])[judge.sieve.reason_of]


def _longest(first: NDArray[np.int64], length: NDArray[np.uint32], left: Mask) -> NDArray[np.int64]:
    """The longest row of each row's cluster, the first of equals; -1 for rows that are not left."""
    keepers = np.full(len(first), -1, np.int64)
    rows = np.flatnonzero(left)
    order = rows[np.lexsort((rows, -length[rows].astype(np.int64), first[rows]))]
    starts = np.flatnonzero(np.append(True, first[order][1:] != first[order][:-1]))
    sizes = np.diff(np.append(starts, len(order)))
    keepers[order] = np.repeat(order[starts], sizes) if len(order) else order
    return keepers

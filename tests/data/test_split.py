from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from doratune.data.split import (
    NOWHERE,
    TEST,
    TRAIN,
    VALIDATION,
    Clusters,
    Shares,
    assign,
    check_splits,
    copies_of,
    points,
    sample,
)
from doratune.errors import DataError

DEFAULT = Shares(validation=0.05, test=0.1)
RANDOM = np.random.default_rng(0)
HASHES = RANDOM.integers(0, 2**64, 20_000, np.uint64)


def deal(
    groups: NDArray[np.uint64],
    labels: NDArray[np.int32] | None = None,
    shares: Shares = DEFAULT,
    **options: Any,
) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    settings: dict[str, Any] = {
        "rows": np.arange(len(groups)),
        "tested": np.zeros(len(groups), np.bool_),
        "clusters": None,
        "seed": 0,
    }
    return assign(groups=groups, labels=labels, shares=shares, **{**settings, **options})


def near(*sketches: str) -> Clusters:
    """Clusters of rows whose sketches are written as letters; half of them equal is alike."""
    numbers = np.array([[ord(letter) for letter in sketch] for sketch in sketches], np.uint16)
    first = list(range(len(sketches)))
    for row, sketch in enumerate(numbers):
        for before in range(row):
            if (numbers[before] == sketch).mean() >= 0.5:
                joined = {first[before], first[row]}
                first = [min(joined) if f in joined else f for f in first]
    return Clusters(np.array(first), numbers, 0.5)


def group_in(split: int, shares: Shares, skip: int = 0) -> int:
    """A group that its hash alone puts into a split."""
    splits, _ = deal(HASHES, shares=shares)
    return int(np.flatnonzero(splits == split)[skip])


def test_shares_are_kept_without_labels() -> None:
    counts = np.bincount(deal(HASHES, shares=Shares(0.1, 0.2))[0])
    # Three standard deviations of a binomial count.
    assert abs(counts[VALIDATION] - 2_000) < 130
    assert abs(counts[TEST] - 4_000) < 170


def test_every_label_has_its_share() -> None:
    labels = (np.arange(2_000) % 10).astype(np.int32)
    splits, _ = deal(HASHES[:2_000], labels)
    for label in range(10):
        counts = np.bincount(splits[labels == label], minlength=3)
        assert counts[VALIDATION] == pytest.approx(10, abs=1)
        assert counts[TEST] == pytest.approx(20, abs=2)


def test_a_label_with_enough_examples_is_in_every_split_and_a_rare_one_in_train() -> None:
    """Whatever the hashes: 11 groups suffice for a tenth, 22 for a twentieth, 3 for train."""
    for start in range(0, 6_000, 36):
        labels = np.repeat(np.array([0, 1, 2], np.int32), [3, 11, 22])
        splits, _ = deal(HASHES[start : start + 36], labels)
        assert TRAIN in splits[labels == 0]
        assert TEST in splits[labels == 1]
        assert {TRAIN, VALIDATION, TEST} <= set(splits[labels == 2].tolist())


def test_no_held_out_split_stays_empty_without_labels_either() -> None:
    """Thirty groups suffice for a tenth, sixty for a twentieth, and later rows change nothing."""
    for start in range(0, 12_000, 60):
        splits, _ = deal(HASHES[start : start + 60])
        assert TEST in splits[:30]
        assert VALIDATION in splits
        assert np.array_equal(deal(HASHES[start : start + 200])[0][:60], splits)


@pytest.mark.parametrize("labelled", [False, True])
def test_appended_rows_move_no_old_ones(labelled: bool) -> None:
    labels = RANDOM.integers(0, 5, 3_000).astype(np.int32) if labelled else None
    before, _ = deal(HASHES[:2_000], None if labels is None else labels[:2_000])
    after, _ = deal(HASHES[:3_000], labels)
    assert np.array_equal(before, after[:2_000])


def test_the_split_depends_on_group_and_seed() -> None:
    first, _ = deal(HASHES)
    assert np.array_equal(first, deal(HASHES)[0])
    assert not np.array_equal(first, deal(HASHES, seed=1)[0])
    assert np.array_equal(first[::-1], deal(HASHES[::-1])[0])
    assert set(deal(HASHES, shares=Shares(0.0, 0.0))[0].tolist()) == {TRAIN}


def test_a_larger_validation_share_moves_nothing_out_of_test() -> None:
    small, _ = deal(HASHES, shares=Shares(0.1, 0.2))
    large, _ = deal(HASHES, shares=Shares(0.4, 0.2))
    assert np.array_equal(small == TEST, large == TEST)


def test_a_group_stays_together_whatever_its_labels() -> None:
    groups = HASHES[RANDOM.integers(0, 300, 3_000)]
    labels = RANDOM.integers(0, 4, 3_000).astype(np.int32)
    splits, _ = deal(groups, labels, Shares(0.3, 0.3))
    assert len({*zip(groups.tolist(), splits.tolist(), strict=True)}) == len(set(groups.tolist()))


def test_near_duplicates_follow_the_first_of_them() -> None:
    shares = Shares(0.0, 0.5)
    test, train = group_in(TEST, shares), group_in(TRAIN, shares)
    splits, torn = deal(HASHES[[test, train]], shares=shares, clusters=near("abcd", "abxy"))
    assert splits.tolist() == [TEST, TEST]
    splits, torn = deal(HASHES[[train, test]], shares=shares, clusters=near("abcd", "abxy"))
    assert splits.tolist() == [TRAIN, TRAIN]
    assert not torn.any()


def test_a_row_that_would_join_two_splits_is_left_out_and_moves_none() -> None:
    shares = Shares(0.0, 0.5)
    test, train = group_in(TEST, shares), group_in(TRAIN, shares)
    other = group_in(TRAIN, shares, skip=1)
    before, _ = deal(HASHES[[test, train]], shares=shares, clusters=near("aabb", "ccdd"))
    # Half of it is the first, half the second; the last row is near to the row left out alone.
    bridge = near("aabb", "ccdd", "aadd", "xydd", "aaxx")
    assert bridge.first.tolist() == [0] * 5
    splits, torn = deal(HASHES[[test, train, other, other, 9]], shares=shares, clusters=bridge)
    assert splits[:2].tolist() == before.tolist() == [TEST, TRAIN]
    assert splits[2:].tolist() == [NOWHERE, TRAIN, TEST]
    assert torn.tolist() == [False, False, True, False, False]


def test_a_group_in_one_split_with_near_duplicates_in_another_is_left_out() -> None:
    shares = Shares(0.0, 0.5)
    test, train = group_in(TEST, shares), group_in(TRAIN, shares)
    splits, torn = deal(
        HASHES[[test, train, train]], shares=shares, clusters=near("abcd", "efgh", "abcd")
    )
    assert splits.tolist() == [TEST, TRAIN, NOWHERE]
    assert torn.tolist() == [False, False, True]


def test_what_is_near_the_test_source_goes_to_test_with_it() -> None:
    shares = Shares(0.0, 0.0)
    tested = np.array([False, False, True])
    splits, _ = deal(
        HASHES[:3], shares=shares, clusters=near("abcd", "efgh", "abxy"), tested=tested
    )
    assert splits.tolist() == [TEST, TRAIN, TEST]


def test_what_is_near_the_test_source_does_not_take_its_group_with_it() -> None:
    """A contract with one clause that everybody has still teaches its others."""
    contract = HASHES[[0, 0, 0, 1, 1]]
    tested = np.array([False, False, False, True, True])
    clusters = near("abcd", "efgh", "ijkl", "abcx", "mnop")
    splits, torn = deal(contract, shares=Shares(0.0, 0.0), clusters=clusters, tested=tested)
    assert splits.tolist() == [TEST, TRAIN, TRAIN, TEST, TEST]
    assert not torn.any()
    splits, _ = deal(HASHES[[1, 1, 1]], shares=Shares(0.0, 0.0), tested=tested[1:4])
    assert splits.tolist() == [TEST, TEST, TEST], "but a group of the test source is all of it"


def test_a_sample_is_stable_and_counts_copies() -> None:
    hashes, once = HASHES[:100], np.ones(100, np.int64)
    chosen = sample(hashes, once, 30, seed=0)
    assert chosen.sum() == 30
    # One more row pushes out at most one of those chosen before.
    more = sample(HASHES[:101], np.ones(101, np.int64), 30, seed=0)
    assert (chosen & more[:100]).sum() >= 29
    assert not np.array_equal(sample(hashes, once, 30, seed=1), chosen)
    assert np.array_equal(sample(hashes, once, None, seed=0), once)
    assert np.array_equal(sample(hashes, once, 100, seed=0), once)
    twice = sample(hashes, 2 * once, 100, seed=0)
    assert twice.sum() == 100
    assert set(twice.tolist()) == {0, 1, 2}


def test_weights_repeat_and_thin_out() -> None:
    assert copies_of(HASHES, 2.0, seed=0).tolist() == [2] * len(HASHES)
    assert copies_of(HASHES, 0.5, seed=0).mean() == pytest.approx(0.5, abs=0.015)
    assert set(copies_of(HASHES, 1.25, seed=0).tolist()) == {1, 2}
    assert copies_of(HASHES, 1.25, seed=0).mean() == pytest.approx(1.25, abs=0.015)


def test_points_of_different_uses_are_independent() -> None:
    first, second = points(HASHES, 0, "split"), points(HASHES, 0, "sample")
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert 0 <= first.min() < 0.001 < 0.999 < first.max() < 1


def test_an_empty_split_is_refused_with_the_counts() -> None:
    counts = {"train": 2, "validation": 0, "test": 1}
    by_label: dict[Any, Counter[str]] = {split: Counter() for split in counts}
    check_splits(counts, by_label, None, ["train", "test"])  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=r"validation split is empty \(train 2, validation 0, test 1\)"
    ):
        check_splits(counts, by_label, None, ["train", "validation"])  # type: ignore[arg-type]


def test_a_label_without_training_examples_is_refused_by_name() -> None:
    by_label = {"train": Counter("xx"), "validation": Counter("y"), "test": Counter("yx")}
    counts = {split: counter.total() for split, counter in by_label.items()}
    with pytest.raises(
        DataError, match=r"label 'y' has no example in the train split and 2 in val"
    ):
        check_splits(counts, by_label, ["x", "y"], ["train"])  # type: ignore[arg-type]

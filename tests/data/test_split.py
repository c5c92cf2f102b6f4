from __future__ import annotations

from collections import Counter

import pytest

from doratune.data.formats import Draft
from doratune.data.load import Row
from doratune.data.split import check_splits, drop_duplicates, sample, split_of
from doratune.errors import DataError
from doratune.record.schemas import Example, Message, Split


def draft(text: str, label: str = "x", line: int = 1) -> Draft:
    turns = (Message(role="user", content=text), Message(role="assistant", content=label))
    return Draft(Row({}, f"a:{line}"), turns, label, text)


def examples(*labels: str) -> list[Example]:
    return [Example(id="0" * 16, messages=[], label=label, place="a:1") for label in labels]


def test_shares_are_kept() -> None:
    counts = Counter(split_of(f"text {n}", 0, 0.1, 0.2) for n in range(20_000))
    # Three standard deviations of a binomial count.
    assert abs(counts["validation"] - 2_000) < 130
    assert abs(counts["test"] - 4_000) < 170


def test_the_split_depends_on_text_and_seed_alone() -> None:
    texts = [f"text {n}" for n in range(200)]
    first = [split_of(text, 0, 0.3, 0.3) for text in texts]
    assert first == [split_of(text, 0, 0.3, 0.3) for text in texts]
    assert first != [split_of(text, 1, 0.3, 0.3) for text in texts]
    assert {split_of(text, 0, 0.0, 0.0) for text in texts} == {"train"}


def test_a_larger_validation_share_moves_nothing_out_of_test() -> None:
    texts = [f"text {n}" for n in range(500)]
    small = {text for text in texts if split_of(text, 0, 0.1, 0.2) == "test"}
    large = {text for text in texts if split_of(text, 0, 0.4, 0.2) == "test"}
    assert small == large


def test_the_first_of_equal_drafts_stays() -> None:
    drafts = [draft("a", "x", 1), draft("a", "y", 2), draft("a", "x", 3), draft("b", "x", 4)]
    kept, repeated = drop_duplicates(drafts)
    assert [d.row.place for d in kept] == ["a:1", "a:2", "a:4"]
    assert [d.row.place for d in repeated] == ["a:3"]


def test_a_sample_is_stable_and_in_order() -> None:
    drafts = [draft(f"text {n}") for n in range(100)]
    chosen, left_over = sample(drafts, 30, seed=0)
    assert len(chosen) == 30
    assert [d for d in drafts if d in chosen] == chosen
    assert sorted([*chosen, *left_over], key=drafts.index) == drafts
    # One more row pushes out at most one of those chosen before.
    more, _ = sample([*drafts, draft("new")], 30, seed=0)
    assert len([d for d in chosen if d in more]) >= 29
    assert sample(drafts, 30, seed=1)[0] != chosen
    assert sample(drafts, None, seed=0) == (drafts, [])
    assert sample(drafts, 100, seed=0) == (drafts, [])


def test_an_empty_split_is_refused_with_the_counts() -> None:
    splits: dict[Split, list[Example]] = {
        "train": examples("x", "x"), "validation": [], "test": examples("x"),
    }  # fmt: skip
    check_splits(splits, None, ["train", "test"])
    with pytest.raises(
        DataError, match=r"validation split is empty \(train 2, validation 0, test 1\)"
    ):
        check_splits(splits, None, ["train", "validation", "test"])


def test_a_label_without_training_examples_is_refused_by_name() -> None:
    splits: dict[Split, list[Example]] = {
        "train": examples("x", "x"), "validation": examples("y"), "test": examples("y", "x"),
    }  # fmt: skip
    with pytest.raises(
        DataError, match=r"label 'y' has no example in the train split and 2 in val"
    ):
        check_splits(splits, ["x", "y"], ["train"])

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from doratune.data.review import choose_sample, require_review
from doratune.errors import DataError
from doratune.recipe.gates import ReviewGate
from doratune.record.files import write_jsonl
from doratune.record.review import ReviewFile, ReviewItem, ReviewVerdict
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Message, RecordFile

GATE = ReviewGate()


def chosen(ids: list[str], labels: list[str | None] | None = None, seed: int = 0) -> list[str]:
    places = choose_sample(ids, labels or [None] * len(ids), GATE, seed)
    return [ids[index] for index in places]


@pytest.mark.parametrize(
    ("examples", "expected"), [(0, 0), (10, 10), (100, 25), (501, 26), (700, 35), (5000, 50)]
)
def test_five_percent_but_at_least_25_and_at_most_50(examples: int, expected: int) -> None:
    sample = chosen([str(i) for i in range(examples)])
    assert len(sample) == len(set(sample)) == expected


def test_the_recipe_says_how_many() -> None:
    gate = ReviewGate(share=0.5, min_examples=3, max_examples=7)
    sizes = [
        len(choose_sample([str(i) for i in range(n)], [None] * n, gate, 0)) for n in (4, 8, 99)
    ]
    assert sizes == [3, 4, 7]


def test_labels_come_in_proportion_and_each_at_least_once() -> None:
    labels = ["common"] * 800 + ["rarer"] * 180 + ["rarest"] * 2 + [f"one of {i}" for i in range(8)]
    ids = [str(i) for i in range(len(labels))]
    sample = chosen(ids, list(labels))
    counts = Counter(labels[int(id)] for id in sample)
    assert set(counts) == set(labels)
    # 50 places: one for each of the 11 labels, and the 39 others go to the two large ones.
    assert (counts["common"], counts["rarer"]) == (33, 8)
    assert [labels[int(id)] for id in sample[:9]] != ["common"] * 9, "labels come mixed"


def test_more_labels_than_places_leave_the_rarest_out() -> None:
    labels = [str(i) for i in range(60) for _ in range(60 - i)]
    ids = [str(i) for i in range(len(labels))]
    assert {labels[int(id)] for id in chosen(ids, list(labels))} == {str(i) for i in range(50)}


def test_neither_order_nor_appended_rows_move_what_is_chosen() -> None:
    ids = [f"id {i}" for i in range(4000)]
    shuffled = random.Random(0).sample(ids, len(ids))
    assert chosen(ids) == chosen(shuffled)
    more = set(chosen([*ids, *(f"new {i}" for i in range(1000))]))
    old = {id for id in more if id.startswith("id")}
    assert old < set(chosen(ids)), "new rows took the places of some; no other old row came in"
    assert len(old) > 25


def test_another_seed_gives_another_sample() -> None:
    ids = [str(i) for i in range(1000)]
    assert len(set(chosen(ids)) & set(chosen(ids, seed=1))) < 15


def test_an_example_that_is_repeated_is_one_example() -> None:
    ids = [str(i % 20) for i in range(100)]
    assert sorted(chosen(ids)) == sorted(map(str, range(20)))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder with a review sample of four."""
    run = RunFolder(tmp_path / "run")
    turns = [Message(role="user", content="Why?"), Message(role="assistant", content="Because.")]
    items = [ReviewItem(id=id, split="train", place=f"a:{id}", messages=turns) for id in "abcd"]
    write_jsonl(run.review_sample, [item.model_dump() for item in items])
    RecordFile(name="run", recipe_digest="", seed=0).write(run.record)
    return run


def say(run: RunFolder, words: str) -> None:
    for id, verdict in zip("abcd", words, strict=False):
        line = {"id": id, "verdict": {"a": "accept", "r": "reject"}[verdict]}
        ReviewVerdict.model_validate({**line, "reviewer": "ada", "given_at": ""}).append_to(
            run.verdicts
        )


DEMANDED = ReviewGate(action="fail", max_rejected=0.25)


def test_nothing_is_demanded_by_default(run: RunFolder) -> None:
    require_review(run, ReviewGate())
    assert not run.review.exists()
    say(run, "r")
    require_review(run, ReviewGate())
    assert ReviewFile.read(run.review).num_rejected == 1, "but what was said is noted"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "0 of 4 examples to be reviewed have a verdict"),
        ("aaa", "3 of 4 examples to be reviewed have a verdict"),
        ("arra", r"2 of 4 reviewed examples were rejected, and .*max_rejected allows 25%; mend"),
    ],
)
def test_a_review_that_is_not_good_enough(run: RunFolder, words: str, problem: str) -> None:
    say(run, words)
    with pytest.raises(DataError, match=f"{problem}.*Run `doratune review data {run.path}`, then"):
        require_review(run, DEMANDED)


def test_a_review_that_is_good_enough(run: RunFolder) -> None:
    say(run, "aara")
    require_review(run, DEMANDED)
    assert "review" in RecordFile.read(run.record).stages

"""The gates that only count: duplicates, conflicts, labels."""

from __future__ import annotations

from collections import Counter

import numpy as np

from doratune.data.gates import conflicts, duplicates, labels


def test_all_but_the_first_are_duplicates() -> None:
    identities = np.array([7, 3, 7, 2**64 - 1, 3, 7, 2**64 - 1], np.uint64)
    found = duplicates.find(identities)
    assert found.tolist() == [False, False, True, False, True, True, True]
    assert duplicates.find(identities[:0]).tolist() == []


def test_duplicates_and_conflicts_are_those_of_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    asked = rng.integers(0, 300, 2000).astype(np.uint64) * np.uint64(2**55)
    answers = rng.integers(0, 2, 2000)
    seen: set[int] = set()
    repeated = [value in seen or bool(seen.add(value)) for value in asked.tolist()]  # type: ignore[func-returns-value]
    assert duplicates.find(asked).tolist() == repeated
    given: dict[int, set[int]] = {}
    for value, answer in zip(asked.tolist(), answers.tolist(), strict=True):
        given.setdefault(value, set()).add(answer)
    expected = [len(given[value]) > 1 for value in asked.tolist()]
    assert conflicts.find(asked, answers).tolist() == expected
    assert conflicts.find(asked, answers.astype(np.uint64) << np.uint64(63)).tolist() == expected


def test_every_example_of_an_input_in_conflict_is_found() -> None:
    asked = np.array([5, 1, 5, 2, 2, 5], np.uint64)
    found = conflicts.find(asked, np.array([0, 0, 1, 3, 3, 0]))
    assert found.tolist() == [True, False, True, False, False, True]
    assert conflicts.find(asked[:0], np.array([], np.int64)).tolist() == []


def test_rare_labels_are_named_with_what_to_do() -> None:
    counts = Counter({"cap": 12, "carve-out": 9, "none": 1})
    assert labels.find(counts, min_count=10, max_imbalance=20) == [
        "The label 'none' has 1 examples, expected 10 or more: add examples of it, or leave it out "
        "with data.min_label_count or data.exclude_labels.",
        "The label 'carve-out' has 9 examples, expected 10 or more: add examples of it, or leave it "
        "out with data.min_label_count or data.exclude_labels.",
    ]


def test_of_many_rare_labels_the_rest_is_counted() -> None:
    problems = labels.find(Counter({f"l{n}": 1 + n for n in range(9)}), 10, 20)
    assert len(problems) == 6
    assert problems[-1].startswith("4 more labels have fewer than 10 examples")


def test_uneven_labels_are_named_with_both_counts() -> None:
    assert labels.find(Counter({"a": 200, "b": 10}), 10, 20) == []
    (problem,) = labels.find(Counter({"a": 2100, "b": 10, "c": 50}), 10, 20)
    assert problem.startswith(
        "The label 'a' has 2,100 examples, 210 times as many as 'b' (10); expected 20 times or fewer"
    )
    assert labels.find(Counter(), 10, 20) == []

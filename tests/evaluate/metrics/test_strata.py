from __future__ import annotations

import numpy as np
import pytest

from doratune.errors import DataError
from doratune.evaluate.metrics.strata import base_margin, by_difficulty, by_label, quantiles


def shown(groups: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: rows.tolist() for name, rows in groups.items()}


def test_labels_that_occur() -> None:
    groups = by_label(np.array([2, 0, 2]), ["a", "never", "b"])
    assert shown(groups) == {"a": [1], "b": [0, 2]}


def test_difficulties_in_words_are_in_the_order_of_the_alphabet() -> None:
    groups = by_difficulty(["hard", "easy", None, "hard"], 4)
    assert shown(groups) == {"easy": [1], "hard": [0, 3]}


def test_difficulties_in_numbers_are_in_their_order() -> None:
    groups = by_difficulty(["10", "9", "10", "1.5"], 4)
    assert shown(groups) == {"1.5": [3], "9": [1], "10": [0, 2]}


def test_many_numbers_are_grouped() -> None:
    values: list[str | None] = [str((7 * i) % 100 / 10) for i in range(100)]
    groups = by_difficulty([None, *values], 4)
    assert list(groups) == [
        "1 of 4 (0 to 2.4)",
        "2 of 4 (2.5 to 4.9)",
        "3 of 4 (5 to 7.4)",
        "4 of 4 (7.5 to 9.9)",
    ]
    assert sorted(np.concatenate(list(groups.values()))) == list(range(1, 101))
    assert max(float(values[i - 1]) for i in groups["1 of 4 (0 to 2.4)"]) == 2.4


def test_too_many_words_are_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"has 21 different values in the test split, such as 'w0', 'w1', 'w10'; expected at mo",
    ):
        by_difficulty([f"w{i}" for i in range(21)], 4)


def test_not_a_number_is_a_word() -> None:
    assert list(by_difficulty(["nan", "2", "10"], 4)) == ["10", "2", "nan"]


def test_margin_of_the_right_label_by_hand() -> None:
    logprobs = np.array([[-1.0, -3.0, -2.0], [-1.0, -3.0, -2.5]])
    assert base_margin(logprobs, np.array([0, 1])).tolist() == [1.0, -2.0]


def test_quantiles_go_from_hard_to_easy() -> None:
    groups = quantiles(np.array([5.0, -2.0, 1.0, 0.5, 3.0]), 2)
    assert shown(groups) == {"1 of 2 (-2 to 1)": [1, 2, 3], "2 of 2 (3 to 5)": [0, 4]}
    assert list(quantiles(np.array([1.0]), 4)) == ["1 of 1 (1 to 1)"]

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from doratune.evaluate.metrics import Resamples
from doratune.evaluate.metrics.classification import (
    CONFUSION_LABELS,
    accuracy,
    class_table,
    confusion,
    count,
    macro_f1,
    matthews,
    weighted_f1,
)
from tests.evaluate.metrics.guesses import Ints, guesses

SEVERAL = {
    "all labels occur": (*guesses(), 5),
    "three never occur": (*guesses(), 8),
    "two labels": (*guesses(num_labels=2), 2),
    "all right": (np.arange(20), np.arange(20), 20),
    "one label only": (np.zeros(9, np.int64), np.zeros(9, np.int64), 3),
    "always the same guess": (np.arange(12) % 3, np.ones(12, np.int64), 3),
    "one example": (np.array([1]), np.array([0]), 2),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_figures_are_those_of_scikit_learn(case: str) -> None:
    truth, guess, num_labels = SEVERAL[case]
    counts = count(Resamples(len(truth), 0), truth, guess, num_labels)
    labels = range(num_labels)
    assert accuracy(counts)[0] == pytest.approx(accuracy_score(truth, guess))
    for figure, average in ((macro_f1, "macro"), (weighted_f1, "weighted")):
        expected = f1_score(truth, guess, labels=labels, average=average, zero_division=0)
        assert figure(counts)[0] == pytest.approx(expected)
    assert matthews(counts)[0] == pytest.approx(matthews_corrcoef(truth, guess))
    assert confusion(truth, guess, num_labels) == [
        list(row) for row in confusion_matrix(truth, guess, labels=labels)
    ]


def test_each_draw_is_that_of_scikit_learn_on_the_examples_drawn() -> None:
    truth, guess = guesses(30, 4)
    resamples = Resamples(30, seed=3)
    counts = count(resamples, truth, guess, 4)
    rng = np.random.default_rng(3)
    for draw in range(1, 20):
        rows = rng.integers(30, size=30)
        drawn = truth[rows], guess[rows]
        expected = f1_score(*drawn, labels=range(4), average="macro", zero_division=0)
        assert macro_f1(counts)[draw] == pytest.approx(expected)
        assert matthews(counts)[draw] == pytest.approx(matthews_corrcoef(*drawn))


def test_macro_f1_interval_holds_its_value_with_few_examples_of_many_labels() -> None:
    labels = np.arange(20)
    resamples = Resamples(20, 0)
    figure = resamples.interval(macro_f1(count(resamples, labels, labels, 20)), 0, 1)
    assert figure.low < figure.value == figure.high == 1


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Guesses at random: right with 0.7 + 0.3 / 5; by symmetry that is every F1 as well.
    figures = []
    for seed in range(40):
        resamples = Resamples(200, seed)
        values = macro_f1(count(resamples, *guesses(200, seed=seed), 5))
        figures.append(resamples.interval(values, 0, 1))
    covered = sum(figure.low <= 0.76 <= figure.high for figure in figures)
    assert 34 <= covered <= 40  # 95 % of 40 is 38; three standard deviations are 4
    # An F1 averaged over balanced classes varies like the accuracy.
    width = np.mean([figure.high - figure.low for figure in figures])
    assert width == pytest.approx(2 * 1.96 * math.sqrt(0.76 * 0.24 / 200), rel=0.1)


def test_class_table_is_that_of_scikit_learn() -> None:
    truth, guess = guesses(50, 3)
    rows = class_table(truth, guess, ["a", "b", "c", "never"])
    columns = precision_recall_fscore_support(truth, guess, labels=range(4), zero_division=0)
    assert [(r.precision, r.recall, r.f1, r.support) for r in rows] == list(
        zip(*columns, strict=True)
    )
    assert rows[3].model_dump() == {
        "label": "never",
        "precision": 0,
        "recall": 0,
        "f1": 0,
        "support": 0,
    }


def test_a_confusion_matrix_that_nobody_could_read_is_left_out() -> None:
    truth: Ints = np.arange(5)
    assert len(confusion(truth, truth, CONFUSION_LABELS)) == CONFUSION_LABELS
    assert confusion(truth, truth, CONFUSION_LABELS + 1) == []

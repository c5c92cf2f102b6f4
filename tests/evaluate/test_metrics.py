from __future__ import annotations

import math
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from doratune.evaluate import metrics

Ints = NDArray[np.int64]


def guesses(
    n: int = 400, num_labels: int = 5, accuracy: float = 0.7, seed: int = 0
) -> tuple[Ints, Ints]:
    """Reference and prediction; all labels equally frequent."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(num_labels, size=n)
    return truth, np.where(rng.random(n) < accuracy, truth, rng.integers(num_labels, size=n))


def test_share_is_accuracy_with_wilsons_formula() -> None:
    truth, guess = guesses()
    figure = metrics.share(truth == guess)
    assert figure.value == accuracy_score(truth, guess)
    z, p, n = 1.959963984540054, figure.value, 400
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (figure.low, figure.high) == pytest.approx((centre - half, centre + half))
    assert (figure.n, figure.method) == (400, "Wilson")


@pytest.mark.parametrize("n", [1, 5])
def test_share_when_all_are_right_still_has_an_interval(n: int) -> None:
    figure = metrics.share(np.ones(n, dtype=bool))
    assert (figure.value, figure.high) == (1, 1)
    assert figure.low == pytest.approx(n / (n + 1.959963984540054**2))


@pytest.mark.parametrize("num_labels", [5, 8])
def test_macro_f1_is_that_of_scikit_learn(num_labels: int) -> None:
    truth, guess = guesses()  # labels 5 to 7 never occur
    figure = metrics.macro_f1(truth, guess, num_labels, seed=0)
    expected = f1_score(truth, guess, labels=range(num_labels), average="macro", zero_division=0)
    assert figure.value == pytest.approx(expected)
    assert figure.low < figure.value < figure.high
    assert figure.method == "bootstrap (1000 draws, seed 0)"


def test_macro_f1_interval_holds_its_value_with_few_examples_of_many_labels() -> None:
    labels = np.arange(20)
    figure = metrics.macro_f1(labels, labels, 20, seed=0)
    assert figure.low < figure.value == figure.high == 1


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Guesses at random: right with 0.7 + 0.3 / 5; by symmetry that is every F1 as well.
    intervals = [metrics.macro_f1(*guesses(200, seed=seed), 5, seed=seed) for seed in range(40)]
    covered = sum(figure.low <= 0.76 <= figure.high for figure in intervals)
    assert 34 <= covered <= 40  # 95 % of 40 is 38; three standard deviations are 4
    widths = [figure.high - figure.low for figure in intervals]
    # An F1 averaged over balanced classes varies like the accuracy.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * math.sqrt(0.76 * 0.24 / 200), rel=0.1)


def test_class_table_is_that_of_scikit_learn() -> None:
    truth, guess = guesses(50, 3)
    rows = metrics.class_table(truth, guess, ["a", "b", "c", "never"])
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


def test_confidence_is_the_largest_probability_among_the_labels() -> None:
    logprobs = np.log([[0.3, 0.1, 0.1], [0.2, 0.2, 0.4]]) - 5
    np.testing.assert_allclose(metrics.confidences(logprobs), [0.6, 0.5])
    assert metrics.confidences(np.array([[0.0, -2000.0]])) == [1.0]


def test_calibration_by_hand() -> None:
    confidence = np.array([0.55, 0.6, 0.95, 1.0, 1.0])
    correct = np.array([True, False, True, True, False])
    error, bins = metrics.calibration(confidence, correct, num_bins=5, seed=0)
    # [0.4, 0.6): 0.55, right. [0.6, 0.8): 0.6, wrong. [0.8, 1]: 0.95, 1, 1, two of three right.
    assert [b.n for b in bins] == [0, 0, 1, 1, 3]
    assert [b.accuracy for b in bins] == [None, None, 1, 0, pytest.approx(2 / 3)]
    assert [b.confidence for b in bins] == [None, None, 0.55, 0.6, pytest.approx(2.95 / 3)]
    assert [b.low for b in bins] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [b.high for b in bins] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert error.value == pytest.approx((0.45 + 0.6 + 0.95) / 5)
    assert 0 <= error.low <= error.value <= error.high <= 1


def test_calibration_error_is_the_weighted_gap_of_its_bins() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 300)
    error, bins = metrics.calibration(confidence, rng.random(300) < confidence**2, 10, seed=0)
    assert sum(b.n for b in bins) == 300
    gaps = [b.n / 300 * abs(b.accuracy - b.confidence) for b in bins if b.n]
    assert error.value == pytest.approx(sum(gaps))
    # The expectation of confidence - confidence^2 over [0.2, 1].
    truth = (1 / 2 - 1 / 3 - (0.04 / 2 - 0.008 / 3)) / 0.8
    assert error.low < truth < error.high


def test_perfect_confidence_has_no_calibration_error() -> None:
    error, bins = metrics.calibration(np.ones(4), np.ones(4, dtype=bool), 10, seed=0)
    assert (error.value, error.low, error.high, bins[-1].n) == (0, 0, 0, 4)


def test_mean_has_the_interval_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(3, 2, 500)
    figure = metrics.mean(values, seed=1)
    assert figure.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(500)
    assert (figure.low, figure.high) == pytest.approx(
        (figure.value - half, figure.value + half), abs=half / 5
    )


def test_one_example_has_no_spread() -> None:
    truth = np.array([2])
    for figure in (
        metrics.macro_f1(truth, truth, 3, seed=0),
        metrics.mean(np.array([0.5]), seed=0),
        metrics.calibration(np.array([0.8]), truth == 2, 10, seed=0)[0],
        metrics.difference(truth == 2, truth == 1, seed=0).value,
    ):
        assert figure.low == figure.value == figure.high
        assert figure.n == 1


def test_difference_by_hand() -> None:
    # 6 gained, 1 lost, 3 the same.
    base = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 0], dtype=bool)
    tuned = np.array([1, 1, 1, 1, 1, 1, 0, 1, 1, 0], dtype=bool)
    result = metrics.difference(base, tuned, seed=0)
    assert result.value.value == pytest.approx(0.5)
    assert result.value.low < 0.5 < result.value.high
    assert result.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    back = metrics.difference(tuned, base, seed=0)
    assert (back.value.value, back.p_value) == (pytest.approx(-0.5), pytest.approx(result.p_value))


def test_difference_is_paired() -> None:
    base, tuned = np.zeros(400, dtype=bool), np.zeros(400, dtype=bool)
    base[:200] = tuned[:200] = True
    tuned[200:220] = True
    figure = metrics.difference(base, tuned, seed=0).value
    # Unpaired, two shares of about 0.5 would give an interval of about 0.14.
    width = 2 * 1.96 * math.sqrt(0.05 * 0.95 / 400)
    assert figure.high - figure.low == pytest.approx(width, rel=0.15)


def test_no_difference_has_p_value_1() -> None:
    same = np.array([True, False, True])
    result = metrics.difference(same, same, seed=0)
    assert (result.value.value, result.value.low, result.value.high, result.p_value) == (0, 0, 0, 1)


def test_a_seed_gives_the_same_interval_again() -> None:
    truth, guess = guesses()
    first, again, other = (metrics.macro_f1(truth, guess, 5, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_bootstrap_of_two_thousand_examples_takes_under_two_seconds() -> None:
    truth, guess = guesses(2000, 30)
    started = time.process_time()
    metrics.macro_f1(truth, guess, 30, seed=0)
    assert time.process_time() - started < 2

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import accuracy_score

from doratune.evaluate.metrics import Resamples, difference, mcnemar, mean, share
from doratune.evaluate.metrics.intervals import NUM_DRAWS
from tests.evaluate.metrics.guesses import guesses


def test_share_is_accuracy_with_wilsons_formula() -> None:
    truth, guess = guesses()
    figure = share(truth == guess)
    assert figure.value == accuracy_score(truth, guess)
    z, p, n = 1.959963984540054, figure.value, 400
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (figure.low, figure.high) == pytest.approx((centre - half, centre + half))
    assert (figure.n, figure.method) == (400, "Wilson")


@pytest.mark.parametrize("n", [1, 5])
def test_share_when_all_are_right_still_has_an_interval(n: int) -> None:
    figure = share(np.ones(n, dtype=bool))
    assert (figure.value, figure.high) == (1, 1)
    assert figure.low == pytest.approx(n / (n + 1.959963984540054**2))


def test_mean_has_the_interval_of_scipys_bootstrap() -> None:
    values = np.random.default_rng(0).normal(3, 2, 500)
    figure = mean(values, seed=1)
    assert figure.value == pytest.approx(values.mean())
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0)
    low, high = theirs.confidence_interval
    # The ends of 1,000 draws vary by about 4 % of the width; that is a standard deviation of 0.01.
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=0.04)
    assert (figure.n, figure.method) == (500, "bootstrap (1000 draws, seed 1)")


def test_every_draw_takes_as_many_examples_as_there_are() -> None:
    resamples = Resamples(5000, seed=0)
    assert (resamples.sums(np.ones(5000)) == 5000).all()
    # The first entry is the sample itself; the others are draws, each another one.
    sums = resamples.sums(np.arange(5000.0))
    assert sums[0] == 5000 * 4999 / 2
    assert len(set(sums)) == 1 + NUM_DRAWS
    # A sum varies by the deviation of a value times the root of n.
    assert sums[1:].std() == pytest.approx(math.sqrt(5000) * 5000 / math.sqrt(12), rel=0.1)


def test_group_sums_are_those_of_each_group() -> None:
    rng = np.random.default_rng(0)
    groups, values = rng.integers(7, size=5000), rng.normal(size=5000)
    resamples = Resamples(5000, seed=0)
    found = resamples.group_sums(groups, 8, values)
    expected = [resamples.sums(np.where(groups == group, values, 0)) for group in range(8)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    counts = resamples.group_sums(groups, 8)
    np.testing.assert_array_equal(counts[:, 0], np.bincount(groups, minlength=8))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(60):
        values = np.random.default_rng(seed).exponential(size=200)
        figure = mean(values, seed)
        covered += figure.low <= 1 <= figure.high
    # 57 of 60, less one for the skew; three standard deviations are 5.
    assert 51 <= covered <= 60


def test_an_interval_stays_within_what_the_figure_can_be() -> None:
    resamples = Resamples(20, seed=0)
    values = resamples.means(np.r_[1.0, np.zeros(19)])
    assert resamples.interval(values - 0.05).low < 0
    assert resamples.interval(values, low=0).low == 0
    assert resamples.interval(1 - values, high=1).high == 1


def test_one_example_has_no_spread() -> None:
    for figure in (
        mean(np.array([0.5]), seed=0),
        difference(np.array([True]), np.array([False]), seed=0).value,
    ):
        assert figure.low == figure.value == figure.high
        assert figure.n == 1


def test_difference_by_hand() -> None:
    # 6 gained, 1 lost, 3 the same.
    base = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 0], dtype=bool)
    tuned = np.array([1, 1, 1, 1, 1, 1, 0, 1, 1, 0], dtype=bool)
    result = difference(base, tuned, seed=0)
    assert result.value.value == pytest.approx(0.5)
    assert result.value.low < 0.5 < result.value.high
    assert result.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert result.p_value == pytest.approx(binomtest(6, 7).pvalue)
    back = difference(tuned, base, seed=0)
    assert (back.value.value, back.p_value) == (pytest.approx(-0.5), pytest.approx(result.p_value))


def test_difference_is_paired() -> None:
    base, tuned = np.zeros(400, dtype=bool), np.zeros(400, dtype=bool)
    base[:200] = tuned[:200] = True
    tuned[200:220] = True
    figure = difference(base, tuned, seed=0).value
    # Unpaired, two shares of about 0.5 would give an interval of about 0.14.
    width = 2 * 1.96 * math.sqrt(0.05 * 0.95 / 400)
    assert figure.high - figure.low == pytest.approx(width, rel=0.15)


def test_no_difference_has_p_value_1() -> None:
    same = np.array([True, False, True])
    result = difference(same, same, seed=0)
    assert (result.value.value, result.value.low, result.value.high) == (0, 0, 0)
    assert result.p_value == mcnemar(same, same) == 1


def test_a_seed_gives_the_same_interval_again() -> None:
    values = np.random.default_rng(0).normal(size=50)
    first, again, other = (mean(values, seed) for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_resampling_ten_thousand_examples_takes_under_two_seconds() -> None:
    started = time.process_time()
    resamples = Resamples(10_000, seed=0)
    resamples.group_sums(np.arange(10_000) % 40, 40)
    assert time.process_time() - started < 2

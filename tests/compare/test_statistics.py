from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, chi, nct, ttest_1samp, ttest_ind, ttest_rel
from scipy.stats import t as student

from doratune.compare.statistics import (
    Outcomes,
    arm_value,
    compare_pair,
    holm,
    sign_test,
    smallest_detectable,
)
from doratune.errors import DataError
from tests.compare.trials import World, draw


def real(num_seeds: int, num_examples: int, seed: int = 0) -> Outcomes:
    return Outcomes(np.random.default_rng(seed).normal(size=(num_seeds, num_examples)))


def test_one_seed_is_the_paired_t_test() -> None:
    arm, reference = real(1, 40, 1), real(1, 40, 2)
    truth = ttest_rel(arm.values[0], reference.values[0])
    pair = compare_pair(arm, reference)
    assert pair.p_value == pytest.approx(truth.pvalue, rel=1e-12)
    assert pair.difference.value == pytest.approx(arm.values.mean() - reference.values.mean())
    low, high = truth.confidence_interval()
    assert (pair.difference.low, pair.difference.high) == pytest.approx((low, high), rel=1e-12)


def test_without_chance_of_examples_it_is_welchs_t_test() -> None:
    """Every seed scores the same on all examples: only the seeds' scores are left."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=3), 2 * rng.normal(size=5)
    arm, reference = (Outcomes(np.repeat(s[:, None], 10, axis=1)) for s in scores)
    truth = ttest_ind(*scores, equal_var=False)
    pair = compare_pair(arm, reference)
    assert pair.p_value == pytest.approx(truth.pvalue, rel=1e-9)
    low, high = truth.confidence_interval()
    assert (pair.difference.low, pair.difference.high) == pytest.approx((low, high), rel=1e-9)
    assert f"({truth.df:.1f} degrees of freedom)" in pair.difference.method
    alone = ttest_1samp(scores[0], 0).confidence_interval()
    own = arm_value(arm)
    assert (own.low, own.high) == pytest.approx((alone.low, alone.high), rel=1e-9)


def test_the_base_model_has_no_seed() -> None:
    """Two rows of the same model would be one; a single untrained row hides no seed variance."""
    base = Outcomes(real(1, 50).values, trained=False)
    assert not base.seeds_unknown
    assert Outcomes(base.values).seeds_unknown
    assert arm_value(base).method == "t over 50 examples"
    pair = compare_pair(real(3, 50, 1), base)
    assert pair.smallest_detectable is not None
    assert pair.difference.method.startswith("t over 3 seeds and 50 examples")


def test_one_seed_says_what_it_lacks() -> None:
    pair = compare_pair(real(1, 50, 1), real(3, 50, 2))
    assert pair.smallest_detectable is None
    assert pair.difference.method == (
        "t over 50 examples; one seed: the chance in training is not in it"
    )


def test_the_variance_is_that_of_repeated_draws() -> None:
    """Seeds 20 and 12, both kinds of chance: the mean squared standard error is the variance."""
    rng = np.random.default_rng(0)
    values, squares = [], []
    for _ in range(800):
        ease = rng.normal(size=60)
        arms = [
            Outcomes(
                ease
                + 0.2 * rng.normal(size=(k, 1))
                + 0.5 * rng.normal(size=60)
                + rng.normal(size=(k, 60))
            )
            for k in (20, 12)
        ]
        difference = compare_pair(*arms).difference
        degrees = float(difference.method.split("(")[1].split()[0])
        half = (difference.high - difference.low) / 2
        values.append(difference.value)
        squares.append((half / student.ppf(0.975, degrees)) ** 2)
    # 800 draws know a variance to 5 %.
    assert np.mean(squares) == pytest.approx(np.var(values), rel=0.15)
    truth = 0.2**2 / 20 + 0.2**2 / 12 + 2 * 0.5**2 / 60 + 1 / (20 * 60) + 1 / (12 * 60)
    assert np.mean(squares) == pytest.approx(truth, rel=0.05)


def test_pairs_of_right_and_wrong_have_bonett_and_prices_interval() -> None:
    """One seed: their Laplace-adjusted Wald interval (2012), with t and n - 1."""
    rng = np.random.default_rng(0)
    arm, reference = ((rng.random((1, 80)) < p).astype(float) for p in (0.9, 0.8))
    gained, lost = ((arm > reference).sum() + 1) / 82, ((arm < reference).sum() + 1) / 82
    se = math.sqrt((gained + lost - (gained - lost) ** 2) / 81)
    low, high = gained - lost + student.ppf([0.025, 0.975], 81) * se
    found = compare_pair(Outcomes(arm), Outcomes(reference)).difference
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.value == pytest.approx(arm.mean() - reference.mean())
    assert found.n == 80


def test_agreement_on_every_answer_proves_little() -> None:
    ones = Outcomes(np.ones((3, 50)))
    pair = compare_pair(ones, ones)
    assert pair.p_value == 1
    assert pair.difference.value == 0
    assert pair.difference.low == pytest.approx(-pair.difference.high)
    assert 0.04 < pair.difference.high < 0.08
    alone = arm_value(ones)
    assert alone.value == alone.high == 1
    assert 0.85 < alone.low < 0.95


def test_an_interval_of_shares_stays_in_range() -> None:
    arm, reference = Outcomes(np.ones((2, 4))), Outcomes(np.zeros((2, 4)))
    assert compare_pair(arm, reference).difference.high == 1
    assert arm_value(reference).low == 0


@pytest.mark.parametrize("degrees_of_freedom", [1.0, 2.3, 4.0, 50.0, 5000.0])
def test_the_smallest_detectable_difference_has_its_power(degrees_of_freedom: float) -> None:
    """With the mean of estimated standard errors, that of a chi distribution, for the true one."""
    mean = 0.01 * chi.mean(degrees_of_freedom) / math.sqrt(degrees_of_freedom)
    size = smallest_detectable(mean, degrees_of_freedom)
    critical = student.ppf(0.975, degrees_of_freedom)
    assert nct.sf(critical, degrees_of_freedom, size / 0.01) == pytest.approx(0.8, abs=1e-6)


def test_with_many_examples_it_is_the_textbook_size() -> None:
    """(1.960 + 0.842) standard errors."""
    assert smallest_detectable(1.0, 1e6) == pytest.approx(2.8016, abs=1e-3)


def test_the_sign_test_of_one_seed_is_mcnemars() -> None:
    """McNemar 1947: 3 against 12 discordant answers, by hand from the binomial."""
    arm = np.array([[1.0] * 3 + [0.0] * 12 + [1.0] * 20 + [0.0] * 5])
    reference = np.array([[0.0] * 3 + [1.0] * 12 + [1.0] * 20 + [0.0] * 5])
    truth = 2 * sum(math.comb(15, i) for i in range(4)) / 2**15
    assert sign_test(Outcomes(arm), Outcomes(reference)) == pytest.approx(truth)
    assert truth == pytest.approx(2 * binom.cdf(3, 15, 0.5))


def test_the_sign_test_compares_shares_of_seeds() -> None:
    """2 of 3 against 1 of 2 is a win; 2 of 4 against 1 of 2 is none."""
    reference = Outcomes(np.array([[1.0, 1.0], [0.0, 0.0]]))
    three = Outcomes(np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    assert sign_test(three, reference) == 0.5
    assert sign_test(Outcomes(np.vstack([reference.values] * 2)), reference) == 1


def test_no_sign_test_of_other_numbers() -> None:
    assert sign_test(real(2, 5), real(2, 5)) is None
    assert compare_pair(real(2, 5), real(2, 5, 1)).mcnemar_p_value is None


def test_holm_against_its_definition() -> None:
    """The adjusted p-value is the level at which the step-down procedure begins to reject."""

    def rejects(p: np.ndarray, level: float) -> np.ndarray:
        rejected = np.zeros(len(p), dtype=bool)
        for step, index in enumerate(np.argsort(p)):
            if p[index] > level / (len(p) - step):
                break
            rejected[index] = True
        return rejected

    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 8):
        p = rng.random(size) ** 3
        for index, adjusted in enumerate(holm(list(p))):
            if adjusted < 1:
                assert rejects(p, adjusted * (1 + 1e-9))[index]
            assert not rejects(p, adjusted * (1 - 1e-9))[index]


def test_holm_of_a_known_case() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_an_effect_has_the_same_p_value_in_both_directions() -> None:
    arm, reference = draw(World(), 3, 200, 0.05, np.random.default_rng(1))
    forth, back = compare_pair(arm, reference), compare_pair(reference, arm)
    assert forth.p_value == pytest.approx(back.p_value)
    assert forth.difference.low == pytest.approx(-back.difference.high)
    assert forth.difference.high == pytest.approx(-back.difference.low)


def test_the_p_value_is_below_5_percent_where_the_interval_excludes_zero() -> None:
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(200):
        pair = compare_pair(*draw(World(), 3, 100, 0.08, rng))
        excludes = pair.difference.low > 0 or pair.difference.high < 0
        assert (pair.p_value < 0.05) == excludes
        seen.add(excludes)
    assert seen == {True, False}


def test_different_numbers_of_examples_are_refused() -> None:
    with pytest.raises(DataError, match=r"answered 5 and 6 examples; a comparison needs the same"):
        compare_pair(real(2, 5), real(2, 6))


def test_a_single_example_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"shape \(3, 1\); expected .* at least one seed and two ex"
    ):
        arm_value(real(3, 1))


def test_values_that_are_not_finite_are_refused() -> None:
    values = np.ones((2, 5))
    values[1, 3] = np.nan
    with pytest.raises(DataError, match="1 of 10 outcomes are not finite"):
        arm_value(Outcomes(values))


def test_seeds_that_lean_against_each_other() -> None:
    """What one seed gains on an example the other loses: the degrees of freedom stay above zero."""
    first = np.random.default_rng(0).normal(size=50)
    arm = Outcomes(np.stack([first, 0.1 - first + 1e-3 * first**2]))
    found = arm_value(arm)
    assert "(1.0 degrees of freedom)" in found.method
    assert found.low < found.value < found.high

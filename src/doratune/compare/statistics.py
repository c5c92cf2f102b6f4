"""Figures of an A/B with their uncertainty, over examples and over seeds.

Answers ``y[s, i]`` of seed s on example i are crossed random effects: chance of the seed, chance of the
example, and their interaction. The variance of a mean of them is the seed component plus the example
component minus the interaction, which both contain. Rules, sources and measured coverage:
docs/compare_statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import nctdtrinc, stdtr, stdtrit

from doratune.errors import DataError
from doratune.evaluate.metrics import intervals
from doratune.record.evaluation import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEVEL = 0.05
"""Two-sided error of every test and interval."""
POWER = 0.8

_PSEUDO_ARM = [0.0, 0.0, 1.0, 1.0]
"""Two right and two wrong answers more (Agresti and Coull 1998): an interval of a share has a width even
where all answers are right."""
_PSEUDO_PAIR = [-1.0, 1.0]
"""One example more for each arm to win (Bonett and Price 2012), to the same end."""


class Outcomes(NamedTuple):
    """What one arm did on the test examples."""

    values: Floats
    """The primary metric of every answer, (num_seeds, num_examples): 0 or 1, or any real number."""
    trained: bool = True
    """False for the base model, in which no seed has a part; its one row is all there is."""

    @property
    def num_seeds(self) -> int:
        """Number of independent trainings; 1 for the base model."""
        return len(self.values)

    @property
    def seeds_unknown(self) -> bool:
        """Whether nothing can be said of how much another seed would change."""
        return self.trained and self.num_seeds == 1


class PairStatistics(NamedTuple):
    """One arm against another."""

    difference: Interval
    """First minus second."""
    p_value: float
    """Below 0.05 exactly where the interval excludes zero."""
    mcnemar_p_value: float | None
    """Of `sign_test`; None where answers are not right or wrong."""
    smallest_detectable: float | None
    """None with one seed: no difference of methods can be shown then."""


def arm_value(arm: Outcomes) -> Interval:
    """Mean of an arm's answers with its 95 % interval, over examples and seeds.

    Raises:
        DataError: There are fewer than two examples, or a value is not finite.
    """
    return _interval(_estimate([(1, arm)]), [arm])


def compare_pair(arm: Outcomes, reference: Outcomes) -> PairStatistics:
    """Difference of two arms on the same examples, over examples and seeds.

    Seeds are not paired: seed 1 of one arm has nothing in common with seed 1 of the other but the order
    of the examples, and a positive correlation, if there is one, makes this interval too wide, not too
    narrow.

    Raises:
        DataError: The arms answered different numbers of examples, there are fewer than two, or a value
            is not finite.
    """
    if arm.values.shape[1] != reference.values.shape[1]:
        raise DataError(
            f"The arms answered {arm.values.shape[1]} and {reference.values.shape[1]} examples; a "
            "comparison needs the same ones. Evaluate both on the whole test split."
        )
    estimate = _estimate([(1, arm), (-1, reference)])
    return PairStatistics(
        difference=_interval(estimate, [arm, reference]),
        p_value=estimate.p_value,
        mcnemar_p_value=sign_test(arm, reference),
        smallest_detectable=None
        if arm.seeds_unknown or reference.seeds_unknown
        else smallest_detectable(estimate.standard_error, estimate.degrees_of_freedom),
    )


def smallest_detectable(standard_error: float, degrees_of_freedom: float) -> float:
    """True difference that a two-sided 5 % t-test finds with a power of 80 %, from noncentral t.

    An estimated standard error is on average too small by the factor c4 of quality control, 0.94 at 4
    degrees of freedom, which is taken out: what comparisons state is right on average.
    """
    half = degrees_of_freedom / 2
    c4 = math.exp(math.lgamma(half + 0.5) - math.lgamma(half)) / math.sqrt(half)
    critical = stdtrit(degrees_of_freedom, 1 - LEVEL / 2)
    return standard_error / c4 * float(nctdtrinc(degrees_of_freedom, 1 - POWER, critical))


def sign_test(arm: Outcomes, reference: Outcomes) -> float | None:
    """McNemar's exact test over trainings: on how many examples is an arm right in more of its seeds?

    With one seed each it is McNemar's test. With several it takes all of them into account, where a
    majority of seeds would count 2 of 3 like 3 of 3 and has no answer for 1 of 2. It is about these
    trained models only: the chance in training is not in it, and no verdict rests on it.

    Returns:
        Two-sided p-value; None where answers are not 0 or 1.
    """
    if not (_is_binary(arm.values) and _is_binary(reference.values)):
        return None
    # Shares of seeds with a common denominator: whole numbers, compared exactly.
    more = np.sign(
        arm.values.sum(axis=0) * reference.num_seeds - reference.values.sum(axis=0) * arm.num_seeds
    )
    won, lost = int((more > 0).sum()), int((more < 0).sum())
    return intervals.sign_test(won, lost)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-Bonferroni adjusted p-values, in the order given (Holm 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    adjusted = np.empty_like(p)
    adjusted[order] = raised
    return [float(value) for value in adjusted]


class _Estimate(NamedTuple):
    value: float
    centre: float
    """Middle of the interval; the value, drawn to the middle of its range by the pseudo-examples."""
    standard_error: float
    degrees_of_freedom: float
    bounds: tuple[float, float]

    @property
    def p_value(self) -> float:
        if self.standard_error == 0:
            return 1.0 if self.centre == 0 else 0.0
        score = abs(self.centre) / self.standard_error
        return 2 * float(stdtr(self.degrees_of_freedom, -score))


def _estimate(terms: list[tuple[int, Outcomes]]) -> _Estimate:
    """An arm's mean, or the difference of two: a sum of means with signs."""
    for _, arm in terms:
        _check(arm.values)
    per_example = np.sum([sign * arm.values.mean(axis=0) for sign, arm in terms], axis=0)
    value = float(per_example.mean())
    bounds = (-np.inf, np.inf)
    if all(_is_binary(arm.values) for _, arm in terms):
        pseudo = _PSEUDO_ARM if len(terms) == 1 else _PSEUDO_PAIR
        bounds = (min(pseudo), max(pseudo))
        per_example = np.concatenate([per_example, pseudo])
    example_variance = float(per_example.var(ddof=1)) / len(per_example)
    # Satterthwaite 1946: the squares of the mean squares in the sum, each over its degrees of freedom.
    seed_variance, squares = 0.0, example_variance**2 / (len(per_example) - 1)
    for _, arm in terms:
        k, n = arm.values.shape
        if k > 1:
            between, interaction = _mean_squares(arm.values)
            seed_variance += (between - interaction) / k
            squares += (between / k) ** 2 / (k - 1) + (interaction / k) ** 2 / ((k - 1) * (n - 1))
    variance = example_variance + max(0.0, seed_variance)
    # Seeds that by chance lean against each other can leave less than the smallest part has.
    degrees = max(1.0, variance**2 / squares) if squares else len(per_example) - 1
    return _Estimate(value, float(per_example.mean()), float(np.sqrt(variance)), degrees, bounds)


def _mean_squares(values: Floats) -> tuple[float, float]:
    """Variance of the seeds' means, and the part of it that is interaction with the n examples."""
    k, n = values.shape
    by_seed, by_example = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    rest = values - by_seed - by_example + values.mean()
    return float(by_seed.var(ddof=1)), float(np.square(rest).sum() / ((k - 1) * (n - 1)) / n)


def _interval(estimate: _Estimate, arms: list[Outcomes]) -> Interval:
    half = estimate.standard_error * float(stdtrit(estimate.degrees_of_freedom, 1 - LEVEL / 2))
    low, high = np.clip([estimate.centre - half, estimate.centre + half], *estimate.bounds)
    num_examples = arms[0].values.shape[1]
    return Interval(
        value=estimate.value,
        low=min(float(low), estimate.value),
        high=max(float(high), estimate.value),
        n=num_examples,
        method=_method(arms, num_examples, estimate.degrees_of_freedom),
    )


def _method(arms: list[Outcomes], num_examples: int, degrees_of_freedom: float) -> str:
    over = f"{num_examples} examples"
    seeds = [arm.num_seeds for arm in arms if arm.trained]
    if any(arm.seeds_unknown for arm in arms):
        return f"t over {over}; one seed: the chance in training is not in it"
    if not seeds:
        return f"t over {over}"
    counts = " and ".join(str(count) for count in seeds)
    return f"t over {counts} seeds and {over} ({degrees_of_freedom:.1f} degrees of freedom)"


def _check(values: Floats) -> None:
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise DataError(
            f"Outcomes have the shape {values.shape}; expected (seeds, examples) with at least one seed "
            "and two examples. Take a larger test split."
        )
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} outcomes are not finite; every "
            "answer needs a value of the primary metric. Look for a training that diverged."
        )


def _is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0, 1)).all())

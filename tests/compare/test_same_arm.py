"""The A/A test: an arm is not better than itself; and an effect of the stated size is found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from doratune.compare.statistics import Outcomes, compare_pair
from doratune.record.comparison import PairFigures
from tests.compare.training import NUM_TEST, STEPS, trainings
from tests.compare.trials import World, draw, judged

REPEATS = 200
ERROR = 0.001
"""Chance that sampling alone goes beyond a bound here."""
NUM_SEEDS = 20
NUM_EXAMPLES = 200
"""Of one of the repeated comparisons of real trainings."""


@pytest.mark.parametrize("num_examples", [100, 500])
@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_simulated_arms_are_not_better_than_themselves(num_seeds: int, num_examples: int) -> None:
    rng = np.random.default_rng([num_seeds, num_examples])
    verdicts = [
        judged(*draw(World(), num_seeds, num_examples, 0.0, rng)).verdict for _ in range(REPEATS)
    ]
    allowed = binom.isf(ERROR, REPEATS, 0.05)
    assert verdicts.count("better") <= allowed
    assert verdicts.count("better") + verdicts.count("worse") <= allowed


@pytest.mark.parametrize("num_examples", [100, 500])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_simulated_effects_of_the_stated_size_are_found(num_seeds: int, num_examples: int) -> None:
    """The size is the mean of what comparisons of equal arms state; others then look for it."""
    world = World(accuracy=0.6)
    rng = np.random.default_rng([num_seeds, num_examples, 1])
    stated = [
        compare_pair(*draw(world, num_seeds, num_examples, 0.0, rng)).smallest_detectable
        for _ in range(60)
    ]
    effect = float(np.mean(stated))
    found = [
        judged(*draw(world, num_seeds, num_examples, effect, rng)).verdict for _ in range(REPEATS)
    ]
    assert found.count("better") >= binom.ppf(ERROR, REPEATS, 0.8)
    assert found.count("worse") == 0


def test_the_simulation_would_show_a_wrong_rule() -> None:
    """Over examples only, with the seeds' answers averaged, equal arms differ far too often."""
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(REPEATS):
        arm, reference = draw(World(), 3, 500, 0.0, rng)
        means = (Outcomes(a.values.mean(axis=0, keepdims=True)) for a in (arm, reference))
        shown += compare_pair(*means).p_value < 0.05
    assert shown > binom.isf(ERROR, REPEATS, 0.05)


@pytest.fixture(scope="module")
def arm() -> NDArray[np.float64]:
    """20 real trainings."""
    return trainings(range(NUM_SEEDS))


def repeated(
    arm: NDArray[np.float64], reference: NDArray[np.float64], num_seeds: int
) -> Iterator[PairFigures]:
    """Comparisons of ``num_seeds`` trainings each, without a common training or a common example."""
    for seed in range(0, NUM_SEEDS - num_seeds + 1, num_seeds):
        for start in range(0, NUM_TEST, NUM_EXAMPLES):
            part = slice(seed, seed + num_seeds), slice(start, start + NUM_EXAMPLES)
            yield judged(Outcomes(arm[part]), Outcomes(reference[part]))


@pytest.mark.slow
def test_real_trainings_are_not_better_than_themselves(arm: NDArray[np.float64]) -> None:
    again = trainings(range(NUM_SEEDS, 2 * NUM_SEEDS))
    accuracies = np.concatenate([arm, again]).mean(axis=1)
    assert accuracies.min() > 0.55
    assert accuracies.max() < 0.95
    for num_seeds in (3, 5):
        verdicts = [pair.verdict for pair in repeated(arm, again, num_seeds)]
        allowed = binom.isf(ERROR, len(verdicts), 0.05)
        assert verdicts.count("better") <= allowed
        assert verdicts.count("worse") <= allowed


@pytest.mark.slow
def test_a_real_effect_is_found(arm: NDArray[np.float64]) -> None:
    """A quarter of the steps: worse, and found as often as the stated size promises."""
    quarter = trainings(range(NUM_SEEDS, 2 * NUM_SEEDS), STEPS // 4)
    effect = arm.mean() - quarter.mean()
    for num_seeds in (3, 5):
        pairs = list(repeated(arm, quarter, num_seeds))
        assert effect >= np.mean([pair.smallest_detectable for pair in pairs])
        found = sum(pair.verdict == "better" for pair in pairs)
        assert found >= binom.ppf(ERROR, len(pairs), 0.8)

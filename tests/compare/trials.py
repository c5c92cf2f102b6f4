"""Simulated answers of trainings, with a known true difference between arms.

An answer is right where a sum of normal parts is above zero: how easy the example is, how easy it is to
this arm, how well this seed does, and chance of this seed on this example. The share of right answers
over all seeds and examples is then known exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from doratune.compare.statistics import Outcomes, arm_value
from doratune.compare.verdict import judge_pairs
from doratune.record.comparison import Arm, ArmFigures, PairFigures


class World(NamedTuple):
    """What arms are drawn from; standard deviations beside that of an example's ease, 1."""

    accuracy: float = 0.8
    seed: float = 0.08
    """0.08 gives accuracies a standard deviation over seeds of about 2 points at 80 %."""
    chance: float = 0.6
    """Of one seed on one example: at 0.6 two seeds disagree on about one example in six."""
    taste: float = 0.0
    """Of an arm on an example, the same for all its seeds; arms of one method share it."""

    @property
    def spread(self) -> float:
        return float(np.sqrt(1 + self.seed**2 + self.chance**2 + self.taste**2))


def draw(
    world: World, num_seeds: int, num_examples: int, effect: float, rng: np.random.Generator
) -> tuple[Outcomes, Outcomes]:
    """An arm and its reference on the same examples; the arm's true accuracy is higher by ``effect``."""
    ease = rng.normal(size=num_examples)
    arms = []
    for accuracy in (world.accuracy + effect, world.accuracy):
        level = world.spread * norm.ppf(accuracy)
        taste = world.taste * rng.normal(size=num_examples)
        of_seed = world.seed * rng.normal(size=(num_seeds, 1))
        chance = world.chance * rng.normal(size=(num_seeds, num_examples))
        arms.append(Outcomes((level + ease + taste + of_seed + chance > 0).astype(float)))
    return arms[0], arms[1]


def judged(arm: Outcomes, reference: Outcomes) -> PairFigures:
    """The verdict on two arms, by the rules of the comparison."""
    outcomes: dict[Arm, Outcomes] = {"dora": arm, "lora": reference}
    figures = [
        ArmFigures(
            arm=name,
            r=16,
            num_trainable_parameters=1000,
            learning_rate=2e-4,
            num_seeds=arm.num_seeds,
            value=arm_value(arm),
            per_seed=list(arm.values.mean(axis=1)),
        )
        for name, arm in outcomes.items()
    ]
    (pair,) = judge_pairs(outcomes, figures, "lora", "accuracy")
    return pair

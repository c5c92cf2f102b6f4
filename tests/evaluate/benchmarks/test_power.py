from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from doratune.evaluate.benchmarks.power import smallest_detectable


def power(num_questions: int, discordance: float, difference: float, draws: int = 20_000) -> float:
    """Share of simulated comparisons in which the exact McNemar test finds the difference."""
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    rng = np.random.default_rng(0)
    gained, lost, _ = rng.multinomial(num_questions, shares, draws).T
    fewer = np.minimum(gained, lost)
    p_values = np.minimum(1, 2 * binom.cdf(fewer, gained + lost, 0.5))
    return float((p_values <= 0.05).mean())


@pytest.mark.parametrize(
    ("num_questions", "discordance"), [(14_042, 0.05), (2_000, 0.3), (570, 0.2), (100, 0.4)]
)
def test_the_difference_is_found_at_the_stated_power(
    num_questions: int, discordance: float
) -> None:
    difference = smallest_detectable(num_questions, discordance)
    # The exact test rejects a little less often than the formula's normal one: at most 5 points here.
    assert 0.75 < power(num_questions, discordance, difference) < 0.82


def test_more_questions_show_less() -> None:
    found = [smallest_detectable(n, 0.2) for n in (50, 500, 5_000)]
    assert found == sorted(found, reverse=True)
    assert found[1] == pytest.approx(2.8016 * np.sqrt(0.2 / 500), rel=0.02)


def test_models_that_never_differ_leave_what_luck_could_do() -> None:
    """With no discordant question there is no variance to go by; the difference would be all of it."""
    assert smallest_detectable(1_000, 0.0) == pytest.approx(smallest_detectable(1_000, 0.001))
    assert 3.84 / 1_000 < smallest_detectable(1_000, 0.0) < 9 / 1_000


@pytest.mark.parametrize("num_questions", [1, 2, 3])
def test_a_handful_of_questions_shows_nothing(num_questions: int) -> None:
    assert smallest_detectable(num_questions, 0.2) == 1.0

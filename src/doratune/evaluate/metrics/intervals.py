"""Figures with their uncertainty: Wilson, the bootstrap, and the paired test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import binomtest

from doratune.record.evaluation import Difference, Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

NUM_DRAWS = 1000

_EXAMPLES_AT_ONCE = 4096


class Resamples:
    """The same examples drawn again with replacement.

    A figure is computed for the sample and all draws at once, from sums over examples: an array whose
    first entry is the measured figure, followed by that of each draw. Figures of several models on
    the same resamples are paired, so that their difference is an array of the same kind.

    Args:
        n: Number of examples, at least 1. Each takes a kilobyte.
        seed: Of the draws.
        num_draws: Without any, only the measured figures are computed, and there are no intervals.
    """

    def __init__(self, n: int, seed: int, num_draws: int = NUM_DRAWS) -> None:
        self.n, self.seed, self.num_draws = n, seed, num_draws
        # No example is drawn 256 times: of 256 or more it would be, once in more than 10^500 draws.
        counts = np.ones((1 + num_draws, n), np.uint8)
        rng = np.random.default_rng(seed)
        for draw in range(1, 1 + num_draws):
            counts[draw] = np.bincount(rng.integers(n, size=n), minlength=n)
        self._counts = np.ascontiguousarray(counts.T)

    def sums(self, values: Floats | Bools) -> Floats:
        """Sum over the examples.

        Args:
            values: ``(n,)``.

        Returns:
            ``(1 + num_draws,)``.
        """
        total = np.zeros(1 + self.num_draws)
        for part in self._parts():
            total += values[part].astype(float) @ self._counts[part].astype(float)
        return total

    def means(self, values: Floats | Bools) -> Floats:
        """Mean over the examples; otherwise as `sums`."""
        return self.sums(values) / self.n

    def group_sums(
        self, groups: Ints, num_groups: int, values: Floats | Bools | None = None
    ) -> Floats:
        """Sum over the examples of each group.

        Args:
            groups: ``(n,)``, in [0, num_groups).
            num_groups: How many there are.
            values: ``(n,)``; the examples are counted when None.

        Returns:
            ``(num_groups, 1 + num_draws)``.
        """
        weights = np.ones(self.n) if values is None else values.astype(float)
        total = np.zeros((num_groups, 1 + self.num_draws))
        for part in self._parts():
            at = np.arange(len(groups[part]))
            chosen = csr_array((weights[part], (groups[part], at)), (num_groups, len(at)))
            total += chosen @ self._counts[part].astype(float)
        return total

    def interval(self, values: Floats, low: float = -np.inf, high: float = np.inf) -> Interval:
        """The measured figure with its 95 % percentile interval, centred on it.

        Resampling inflates a calibration error and deflates a macro-F1 whose rare classes some draws
        miss: the plain percentiles can lie beside the measured value. With the draws shifted to have
        it as their mean, coverage of macro-F1 rises from 0.21 to 0.79 at 30 labels and 100 examples,
        and from 0.78 to 0.91 at 20 labels and 100 examples (300 simulated test sets each); where the
        draws have no bias, nothing changes.

        Args:
            values: ``(1 + num_draws,)``.
            low: The figure cannot be less, so the interval does not go below.
            high: Nor can it be more.
        """
        value, draws = values[0], values[1:]
        ends = np.quantile(draws - draws.mean() + value, [0.025, 0.975])
        method = f"bootstrap ({self.num_draws} draws, seed {self.seed})"
        return Interval(
            value=float(value),
            low=float(max(ends[0], low)),
            high=float(min(ends[1], high)),
            n=self.n,
            method=method,
        )

    def _parts(self) -> list[slice]:
        starts = range(0, self.n, _EXAMPLES_AT_ONCE)
        return [slice(start, start + _EXAMPLES_AT_ONCE) for start in starts]


def share(correct: Bools) -> Interval:
    """Share of right answers with its 95 % Wilson interval.

    Args:
        correct: ``(n,)``, n at least 1.
    """
    result = binomtest(int(correct.sum()), len(correct))
    low, high = result.proportion_ci(method="wilson")
    return Interval(value=result.statistic, low=low, high=high, n=len(correct), method="Wilson")


def mean(values: Floats, seed: int) -> Interval:
    """Mean with its 95 % bootstrap interval."""
    resamples = Resamples(len(values), seed)
    return resamples.interval(resamples.means(values))


def mcnemar(base: Bools, tuned: Bools) -> float:
    """p-value of the exact McNemar test: are as many answers gained as lost?

    Args:
        base: ``(n,)``, whether the base model was right.
        tuned: Likewise, on the same examples in the same order.
    """
    return sign_test(int((tuned & ~base).sum()), int((base & ~tuned).sum()))


def sign_test(won: int, lost: int) -> float:
    """Two-sided p-value of the exact sign test: are as many won as lost? 1 where there are none."""
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def difference(base: Bools, tuned: Bools, seed: int) -> Difference:
    """Share of right answers, tuned minus base: paired bootstrap and exact McNemar test.

    Args:
        base: ``(n,)``, whether the base model was right.
        tuned: Likewise, on the same examples in the same order.
        seed: Of the bootstrap.
    """
    return Difference(value=mean(tuned.astype(float) - base, seed), p_value=mcnemar(base, tuned))

"""Figures with intervals, from right and wrong answers and their likelihoods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import precision_recall_fscore_support

from doratune.record.evaluation import CalibrationBin, ClassFigures, Difference, Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

NUM_DRAWS = 1000


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
    return _bootstrap(lambda rows: float(values[rows].mean()), len(values), seed)


def macro_f1(reference: Ints, predicted: Ints, num_labels: int, seed: int) -> Interval:
    """Mean of the F1 of all labels, 0 for a label that never occurs, with a 95 % interval.

    Args:
        reference: ``(n,)``, class indices in [0, num_labels).
        predicted: Likewise.
        num_labels: Size of the label set.
        seed: Of the bootstrap.
    """

    def statistic(rows: Ints) -> float:
        truth, guess = reference[rows], predicted[rows]
        hits = np.bincount(truth[truth == guess], minlength=num_labels)
        either = np.bincount(truth, minlength=num_labels) + np.bincount(guess, minlength=num_labels)
        return float(np.mean(2 * hits / np.maximum(either, 1)))

    return _bootstrap(statistic, len(reference), seed, bounded=True)


def class_table(reference: Ints, predicted: Ints, labels: list[str]) -> list[ClassFigures]:
    """Precision, recall and F1 of each label; 0 where nothing was there to count."""
    columns = precision_recall_fscore_support(
        reference, predicted, labels=range(len(labels)), zero_division=0
    )
    return [
        ClassFigures(label=label, precision=precision, recall=recall, f1=f1, support=support)
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    ]


def confidences(logprobs: Floats) -> Floats:
    """Probability of the most likely label among all labels.

    Args:
        logprobs: ``(n, num_labels)``, nats.

    Returns:
        ``(n,)``, in [1 / num_labels, 1].
    """
    result: Floats = softmax(logprobs, axis=1).max(axis=1)
    return result


def calibration(
    confidence: Floats, correct: Bools, num_bins: int, seed: int
) -> tuple[Interval, list[CalibrationBin]]:
    """Expected calibration error over equal-width bins, with a 95 % interval, and the bins.

    ``ECE = sum over bins of |sum of (correct - confidence)| / n`` (Guo et al. 2017). A bin holds
    its lower edge; the last one holds 1 as well.

    Args:
        confidence: ``(n,)``, in [0, 1].
        correct: ``(n,)``.
        num_bins: At least 1.
        seed: Of the bootstrap.
    """
    edges = np.arange(num_bins + 1) / num_bins
    bins = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, num_bins - 1)
    gap = correct - confidence

    def statistic(rows: Ints) -> float:
        sums = np.bincount(bins[rows], weights=gap[rows], minlength=num_bins)
        return float(np.abs(sums).sum() / len(rows))

    table = []
    for index in range(num_bins):
        inside = bins == index
        filled = bool(inside.any())
        table.append(
            CalibrationBin(
                low=edges[index],
                high=edges[index + 1],
                n=int(inside.sum()),
                confidence=float(confidence[inside].mean()) if filled else None,
                accuracy=float(correct[inside].mean()) if filled else None,
            )
        )
    return _bootstrap(statistic, len(gap), seed, bounded=True), table


def difference(base: Bools, tuned: Bools, seed: int) -> Difference:
    """Tuned minus base on the same examples: paired bootstrap and exact McNemar test.

    Args:
        base: ``(n,)``, whether the base model was right.
        tuned: Likewise, on the same examples in the same order.
        seed: Of the bootstrap.
    """
    gained, lost = int((tuned & ~base).sum()), int((base & ~tuned).sum())
    return Difference(
        value=mean(tuned.astype(float) - base, seed),
        p_value=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
    )


def _bootstrap(
    statistic: Callable[[Ints], float], n: int, seed: int, *, bounded: bool = False
) -> Interval:
    """Percentile interval of a statistic over resampled rows, centred on the measured value.

    Resampling inflates a calibration error and deflates a macro-F1 whose rare classes some draws
    miss: the plain percentiles can lie beside the measured value. With the draws shifted to have it
    as their mean, coverage of macro-F1 rises from 0.21 to 0.79 at 30 labels and 100 examples, and
    from 0.78 to 0.91 at 20 labels and 100 examples (300 simulated test sets each); where the draws
    have no bias, nothing changes.

    Args:
        statistic: Takes row indices.
        n: Number of rows.
        seed: Of the draws.
        bounded: The statistic lies in [0, 1], and so does the interval.
    """
    rows = np.arange(n)
    value = statistic(rows)
    low = high = value
    if n > 1:
        draws = bootstrap(
            (rows,),
            statistic,
            n_resamples=NUM_DRAWS,
            vectorized=False,
            method="percentile",
            rng=seed,
        ).bootstrap_distribution
        low, high = np.quantile(draws - draws.mean() + value, [0.025, 0.975])
    if bounded:
        low, high = max(low, 0.0), min(high, 1.0)
    method = f"bootstrap ({NUM_DRAWS} draws, seed {seed})"
    return Interval(value=value, low=float(low), high=float(high), n=n, method=method)

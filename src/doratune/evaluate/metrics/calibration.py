"""How far a model's confidence in its label is to be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar

from doratune.base.confidence import (
    equal_mass_bins,
    equal_width_bins,
    label_losses,
    probabilities,
)
from doratune.evaluate.metrics.intervals import Resamples, share
from doratune.record.evaluation import CalibrationBin, CoveragePoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

HIGHEST_TEMPERATURE = 100.0
"""At which all labels are practically equally likely."""


def calibration_draws(
    resamples: Resamples, logprobs: Floats, truth: Ints, num_bins: int, temperature: float = 1.0
) -> dict[str, Floats]:
    """Calibration errors, Brier score and label loss, of the sample and of each draw.

    The Brier score is the original one (Brier 1950): squared distance between probabilities and
    truth, summed over all labels, so that it lies in [0, 2]. The bins of equal mass are those of the
    sample.

    Args:
        resamples: Of the examples.
        logprobs: ``(n, num_labels)``, nats.
        truth: ``(n,)``, index of the right label.
        num_bins: Of the calibration errors.
        temperature: As in `probabilities`.

    Returns:
        ``(1 + draws,)`` under ``ece``, ``ece_mass``, ``brier`` and ``label_nll``.
    """
    chances = probabilities(logprobs, temperature)
    confidence = chances.max(axis=1)
    gap = (logprobs.argmax(axis=1) == truth) - confidence
    wrong = chances.copy()
    wrong[np.arange(len(truth)), truth] -= 1

    def error(bins: Ints) -> Floats:
        result: Floats = np.abs(resamples.group_sums(bins, num_bins, gap)).sum(0) / resamples.n
        return result

    return {
        "ece": error(equal_width_bins(confidence, num_bins)),
        "ece_mass": error(equal_mass_bins(confidence, num_bins)),
        "brier": resamples.means((wrong**2).sum(axis=1)),
        "label_nll": resamples.means(label_losses(logprobs, truth, temperature)),
    }


def width_table(confidence: Floats, correct: Bools, num_bins: int) -> list[CalibrationBin]:
    """The reliability diagram with bins of equal width, empty ones included."""
    bins = equal_width_bins(confidence, num_bins)
    return [
        _bin(index / num_bins, (index + 1) / num_bins, confidence, correct, bins == index)
        for index in range(num_bins)
    ]


def mass_table(confidence: Floats, correct: Bools, num_bins: int) -> list[CalibrationBin]:
    """The reliability diagram with bins of equal mass, from least to most confident in each."""
    bins = equal_mass_bins(confidence, num_bins)
    table = []
    for index in np.unique(bins):
        inside = bins == index
        ends = float(confidence[inside].min()), float(confidence[inside].max())
        table.append(_bin(*ends, confidence, correct, inside))
    return table


def _bin(
    low: float, high: float, confidence: Floats, correct: Bools, inside: Bools
) -> CalibrationBin:
    filled = bool(inside.any())
    return CalibrationBin(
        low=low,
        high=high,
        n=int(inside.sum()),
        confidence=float(confidence[inside].mean()) if filled else None,
        accuracy=float(correct[inside].mean()) if filled else None,
    )


def coverage_table(
    confidence: Floats, correct: Bools, coverages: Sequence[float]
) -> list[CoveragePoint]:
    """Accuracy of the most confident answers, at least one of them."""
    order = np.argsort(-confidence, kind="stable")
    table = []
    for coverage in coverages:
        answered = order[: max(1, round(coverage * len(order)))]
        table.append(
            CoveragePoint(
                coverage=coverage,
                threshold=float(confidence[answered[-1]]),
                accuracy=share(correct[answered]),
            )
        )
    return table


def fit_temperature(logprobs: Floats, truth: Ints) -> tuple[float | None, str]:
    """The temperature with the lowest label loss (Guo et al. 2017), `HIGHEST_TEMPERATURE` at most.

    The loss is convex in the inverse of the temperature, so that there is one lowest point.

    Args:
        logprobs: ``(n, num_labels)``, nats, of examples that figures are not made of.
        truth: ``(n,)``, index of the right label.

    Returns:
        The temperature, or None and why there is none.
    """
    if len(truth) == 0:
        return None, "there are no validation examples to fit it on"
    right = logprobs[np.arange(len(truth)), truth]
    others = logprobs.copy()
    others[np.arange(len(truth)), truth] = -np.inf
    if (right > others.max(axis=1)).all():
        return None, (
            f"all {len(truth)} answers on the validation split are right, and the lower the "
            "temperature, the better it fits them"
        )

    def loss(log_temperature: float) -> float:
        return float(label_losses(logprobs, truth, math.exp(log_temperature)).mean())

    found = minimize_scalar(
        loss, bounds=(math.log(0.01), math.log(HIGHEST_TEMPERATURE)), method="bounded"
    )
    return math.exp(found.x), ""

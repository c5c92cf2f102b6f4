"""Made-up answers with known properties."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def guesses(
    n: int = 400, num_labels: int = 5, accuracy: float = 0.7, seed: int = 0
) -> tuple[Ints, Ints]:
    """Reference and prediction; all labels equally frequent."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(num_labels, size=n)
    return truth, np.where(rng.random(n) < accuracy, truth, rng.integers(num_labels, size=n))


def likelihoods(
    n: int = 400, num_labels: int = 5, sharpness: float = 1.0, seed: int = 0
) -> tuple[Floats, Ints]:
    """Log-likelihoods and right labels; drawn from exactly these likelihoods to the power 1/sharpness.

    The log-likelihoods are not normalised, as those of texts are not.
    """
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, (n, num_labels))
    chances = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    truth = (rng.random((n, 1)) > chances.cumsum(1)).sum(1).clip(0, num_labels - 1)
    return sharpness * honest - rng.uniform(1, 9, (n, 1)), truth

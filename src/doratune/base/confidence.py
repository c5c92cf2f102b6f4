"""A model's probabilities over a closed label set, and how far they are to be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax, softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


def probabilities(logprobs: Floats, temperature: float = 1.0) -> Floats:
    """Softmax over the labels, ``(n, num_labels)``.

    Args:
        logprobs: ``(n, num_labels)``, nats.
        temperature: Divides them; above 1 the model becomes less sure.
    """
    result: Floats = softmax(logprobs / temperature, axis=1)
    return result


def label_losses(logprobs: Floats, truth: Ints, temperature: float = 1.0) -> Floats:
    """Negative log-probability of the right label among all labels, ``(n,)``, nats.

    Args:
        logprobs: ``(n, num_labels)``, nats.
        truth: ``(n,)``, index of the right label.
        temperature: As in `probabilities`.
    """
    losses: Floats = -log_softmax(logprobs / temperature, axis=1)[np.arange(len(truth)), truth]
    return losses


def equal_width_bins(confidence: Floats, num_bins: int) -> Ints:
    """Bin of each confidence; a bin holds its lower edge, the last one holds 1 as well.

    Args:
        confidence: ``(n,)``, in [0, 1].
        num_bins: At least 1.

    Returns:
        ``(n,)``, in [0, num_bins).
    """
    edges = np.arange(num_bins + 1) / num_bins
    return np.minimum(np.searchsorted(edges, confidence, side="right") - 1, num_bins - 1)


def equal_mass_bins(confidence: Floats, num_bins: int) -> Ints:
    """Bin of each confidence, each bin with about as many; equal confidences share one.

    Args:
        confidence: ``(n,)``.
        num_bins: At least 1; some stay empty where there are fewer different confidences.

    Returns:
        ``(n,)``, in [0, num_bins).
    """
    _, first, of = np.unique(np.sort(confidence), return_index=True, return_inverse=True)
    ranks = np.empty(len(confidence), np.int64)
    ranks[np.argsort(confidence)] = first[of]
    return ranks * num_bins // len(confidence)


def calibration_error(confidence: Floats, correct: Bools, bins: Ints) -> float:
    """Expected calibration error: ``sum over bins of |sum of (correct - confidence)| / n``.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599.
    """
    return float(np.abs(np.bincount(bins, weights=correct - confidence)).sum() / len(bins))

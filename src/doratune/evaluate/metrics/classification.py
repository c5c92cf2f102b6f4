"""Right and wrong by class: accuracy, F1, Matthews correlation, the confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from doratune.evaluate.metrics.intervals import Resamples
from doratune.record.evaluation import ClassFigures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

CONFUSION_LABELS = 100
"""A confusion matrix of more labels is not written: it has 10,000 entries then."""


class Counts(NamedTuple):
    """How often each label occurs in the sample and in each draw, ``(num_labels, 1 + draws)`` each."""

    hits: Floats
    """As reference and prediction of one example."""
    truth: Floats
    """As reference."""
    guess: Floats
    """As prediction."""


def count(resamples: Resamples, truth: Ints, guess: Ints, num_labels: int) -> Counts:
    """Counts labels.

    Args:
        resamples: Of the examples.
        truth: ``(n,)``, index of the right label in [0, num_labels).
        guess: Likewise, of the label chosen.
        num_labels: Size of the label set.
    """
    return Counts(
        resamples.group_sums(truth, num_labels, truth == guess),
        resamples.group_sums(truth, num_labels),
        resamples.group_sums(guess, num_labels),
    )


def accuracy(counts: Counts) -> Floats:
    """Share of right answers."""
    result: Floats = counts.hits.sum(0) / counts.truth.sum(0)
    return result


def macro_f1(counts: Counts) -> Floats:
    """Mean of the F1 of all labels, 0 for a label that never occurs."""
    result: Floats = _f1(counts).mean(0)
    return result


def weighted_f1(counts: Counts) -> Floats:
    """Mean of the F1 of all labels, weighted by how often each is right."""
    result: Floats = (_f1(counts) * counts.truth).sum(0) / counts.truth.sum(0)
    return result


def matthews(counts: Counts) -> Floats:
    """Matthews correlation of any number of labels (Gorodkin 2004); 0 where only one occurs."""
    n = counts.truth.sum(0)
    covariance = counts.hits.sum(0) * n - (counts.truth * counts.guess).sum(0)
    truth = n**2 - (counts.truth**2).sum(0)
    guess = n**2 - (counts.guess**2).sum(0)
    spread = np.sqrt(truth * guess)
    result: Floats = np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0)
    return result


def _f1(counts: Counts) -> Floats:
    result: Floats = 2 * counts.hits / np.maximum(counts.truth + counts.guess, 1)
    return result


def class_table(truth: Ints, guess: Ints, labels: list[str]) -> list[ClassFigures]:
    """Precision, recall and F1 of each label; 0 where nothing was there to count."""
    columns = precision_recall_fscore_support(
        truth, guess, labels=range(len(labels)), zero_division=0
    )
    return [
        ClassFigures(label=label, precision=precision, recall=recall, f1=f1, support=support)
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    ]


def confusion(truth: Ints, guess: Ints, num_labels: int) -> list[list[int]]:
    """Examples by right label (rows) and label chosen (columns); empty for too many labels."""
    if num_labels > CONFUSION_LABELS:
        return []
    matrix: list[list[int]] = confusion_matrix(truth, guess, labels=range(num_labels)).tolist()
    return matrix

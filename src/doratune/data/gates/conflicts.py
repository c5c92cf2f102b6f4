"""One input with different labels.

Why it matters: the model is pulled both ways and learns to be unsure, and in a test set one of the
two answers counts as wrong whatever it says. By default conflicts are reported; they are worth a
person's look, since nothing in the data says which label is right.

Limits: inputs must be equal, character by character. Where several answers are right (open
tasks, one text in several categories) a conflict is no mistake.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def find(
    asked: NDArray[np.uint64], answers: NDArray[np.int64] | NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """True for every example whose input stands elsewhere with another answer.

    Args:
        asked: Digest of each example's input.
        answers: Number or digest of each example's label.
    """
    if not len(asked):
        return np.zeros(0, np.bool_)
    order = np.argsort(asked)
    starts = np.flatnonzero(np.append(True, np.diff(asked[order]) != 0))
    least = np.minimum.reduceat(answers[order], starts)
    most = np.maximum.reduceat(answers[order], starts)
    found = np.empty(len(asked), np.bool_)
    found[order] = np.repeat(least != most, np.diff(np.append(starts, len(asked))))
    return found

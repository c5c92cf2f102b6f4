"""Examples with nearly the same words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH = 128
"""Numbers per sketch, two bytes each."""


def sketch(texts: Sequence[str]) -> NDArray[np.uint16]:
    """MinHash sketches, shape (texts, `WIDTH`). Each depends on its own text alone."""
    raise NotImplementedError


def clusters(sketches: NDArray[np.uint16], threshold: float) -> NDArray[np.int64]:
    """Groups texts that are nearly the same, directly or through others.

    Args:
        sketches: Shape (texts, `WIDTH`); may be memory-mapped.
        threshold: Jaccard similarity from which two texts are nearly the same.

    Returns:
        Shape (texts,): the index of the first text of the same group; of itself for a text alone.
    """
    raise NotImplementedError

"""One input with different labels."""

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
    raise NotImplementedError

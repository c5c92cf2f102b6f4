"""Examples unlike the documents that the user names as seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 16


def counts(texts: Sequence[str]) -> NDArray[np.int64]:
    """How often each hashed word 1-gram and 2-gram occurs, shape (`BUCKETS`,).

    The counts of several batches of texts add up.
    """
    raise NotImplementedError


class Scorer:
    """How much likelier a text is under the seeds than under the data."""

    def __init__(self, seeds: NDArray[np.int64], data: NDArray[np.int64]) -> None:
        raise NotImplementedError

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Mean log-ratio per n-gram, nats; above 0 where a text is more like the seeds."""
        raise NotImplementedError

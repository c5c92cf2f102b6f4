"""Examples that say exactly the same.

Why it matters: every copy counts as one more example, and a copy in the test set is an answer
known beforehand. The default drops all but the first, which loses nothing.

Limits: exactly means every character of every turn; a changed space makes another example. The
gate for near duplicates does not mind it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def find(identities: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True for all examples but the first of each identity, in order of index."""
    repeated = np.ones(len(identities), np.bool_)
    # With return_index, numpy sorts stably: the index is that of the first.
    _, firsts = np.unique(identities, return_index=True)
    repeated[firsts] = False
    return repeated

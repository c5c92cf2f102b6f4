"""What data is, in one number: independent of how it is stored.

The digest of an example is the SHA-256 of what it says: messages, label, rejected answer and tools as
canonical JSON, without the place it came from. The digest of a set of examples is the SHA-256 of their
digests, sorted, so that file format, compression and order do not count, but repeats do; the ordered
digest is that of the digests as they come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from doratune.data.formats.draft import turn_json
from doratune.record.files import canonical_json
from doratune.record.schemas import Example

BYTES = 32
"""Length of an example's digest."""


class Fingerprint(NamedTuple):
    """Two digests of the same examples, in hexadecimal."""

    digest: str
    ordered_digest: str


def example_digest(example: Example) -> bytes:
    """The SHA-256 of what one example says."""
    parts = [f'"messages":[{",".join(map(turn_json, example.messages))}]']
    if example.label is not None:
        parts.insert(0, f'"label":{canonical_json(example.label)}')
    if example.rejected is not None:
        parts.append(f'"rejected":[{",".join(map(turn_json, example.rejected))}]')
    if example.tools is not None:
        parts.append(f'"tools":{canonical_json(example.tools)}')
    return hashlib.sha256(f"{{{','.join(parts)}}}".encode()).digest()


def fingerprint(digests: Iterable[NDArray[np.uint8]]) -> Fingerprint:
    """Digests of a set of examples.

    Args:
        digests: Of the examples in order, in batches of shape (examples, `BYTES`).
    """
    every = np.concatenate([np.empty((0, BYTES), np.uint8), *digests])
    # As four big-endian numbers the bytes sort as they do as bytes.
    words = every.view(">u8").astype(np.uint64)
    order = np.lexsort(words.T[::-1])
    return Fingerprint(
        hashlib.sha256(every[order].tobytes()).hexdigest(),
        hashlib.sha256(every.tobytes()).hexdigest(),
    )

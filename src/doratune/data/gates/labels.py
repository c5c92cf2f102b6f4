"""Labels that are too rare to be learnt, or too uneven."""

from __future__ import annotations

from collections import Counter


def find(counts: Counter[str], min_count: int, max_imbalance: float) -> list[str]:
    """One sentence for each problem: the label, its count, and what to do."""
    raise NotImplementedError

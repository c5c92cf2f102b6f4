"""The review sample: what a person should look at, and whether their verdict is good enough."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from doratune.errors import DataError
from doratune.recipe.gates import ReviewGate
from doratune.record.review import data_review, record_review
from doratune.record.run_folder import RunFolder


def choose_sample(
    ids: Sequence[str], labels: Sequence[str | None], gate: ReviewGate, seed: int
) -> list[int]:
    """Chooses the review sample by hash, stratified by label.

    Every label gets at least one place where there are so many, and the others in proportion. Within
    a label the examples with the smallest hashes are taken: rows that are appended replace some of
    them, and leave the rest.

    Args:
        ids: Of all examples that were kept; one that occurs twice is one example.
        labels: Their classes, or None.
        gate: Says how many.
        seed: Another seed gives another sample.

    Returns:
        Indices into ``ids``, in the order of their hashes: labels come mixed.
    """
    order = _in_order_of_hashes(ids, seed)
    wanted = max(gate.min_examples, math.ceil(gate.share * len(order)))
    return _stratified(order, labels, min(wanted, gate.max_examples))


def choose_stratified(
    ids: Sequence[str], labels: Sequence[str | None], number: int, seed: int
) -> list[int]:
    """Chooses so many examples, or all where there are fewer, just as `choose_sample` does."""
    return _stratified(_in_order_of_hashes(ids, seed), labels, number)


def require_review(run: RunFolder, gate: ReviewGate) -> None:
    """Refuses to go on before people have approved of the review sample, where the recipe asks so.

    Raises:
        DataError: The review is not finished, or too many examples were rejected.
    """
    if gate.action == "off" and not run.verdicts.exists():
        return
    problem = record_review(run, data_review(run)).problem(gate.max_rejected)
    if problem and gate.action == "fail":
        raise DataError(
            f"The data may not be trained on yet: {problem}. Run `doratune review data {run.path}`, "
            "then this command again. (data.gates.review.action is fail.)"
        )


def _in_order_of_hashes(ids: Sequence[str], seed: int) -> list[int]:
    hashes = np.fromiter((_hash(seed, id) for id in ids), np.uint64, len(ids))
    return np.unique(hashes, return_index=True)[1].tolist()


def _stratified(order: list[int], labels: Sequence[str | None], number: int) -> list[int]:
    places = _places(Counter(labels[index] for index in order), min(number, len(order)))
    chosen = []
    for index in order:
        if places[labels[index]] > 0:
            places[labels[index]] -= 1
            chosen.append(index)
    return chosen


def _places(counts: Counter[str | None], number: int) -> dict[str | None, int]:
    """How many of the ``number`` places each label gets (Sainte-Laguë, after one for each)."""
    labels = sorted(counts, key=lambda label: (-counts[label], label or ""))
    places = dict.fromkeys(labels, 0)
    for label in labels[:number]:
        places[label] = 1
    for _ in range(number - len(labels)):
        most = max(
            (label for label in labels if places[label] < counts[label]),
            key=lambda label: counts[label] / (2 * places[label] + 1),
        )
        places[most] += 1
    return places


def _hash(seed: int, id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} review {id}".encode()).digest()[:8])

"""Examples in groups: by label, by a column of difficulty, by how hard the base found them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from doratune.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

MOST_WORDS = 20
"""Different difficulties in words, more of which would make a group of nearly every example."""

Groups = dict[str, "Ints"]
"""Indices of the examples of each group, by its name, in the order of tables."""


def by_label(truth: Ints, labels: list[str]) -> Groups:
    """The examples of each label that occurs."""
    groups = {label: np.flatnonzero(truth == index) for index, label in enumerate(labels)}
    return {label: rows for label, rows in groups.items() if len(rows)}


def by_difficulty(values: list[str | None], num_quantiles: int) -> Groups:
    """The examples of each difficulty; those without one are in no group.

    Numbers are in their order, and in quantiles where more than `MOST_WORDS` differ; words are in the
    order of the alphabet.

    Raises:
        DataError: There are too many different words.
    """
    rows = np.array([i for i, value in enumerate(values) if value is not None], np.int64)
    given = [values[i] for i in rows]
    different = sorted({value for value in given if value is not None})
    numbers = {value: number for value in different if (number := _number(value)) is not None}
    numeric = len(numbers) == len(different)
    if len(different) <= MOST_WORDS:
        order = sorted(different, key=numbers.__getitem__) if numeric else different
        names = np.array(given)
        return {value: rows[names == value] for value in order}
    if not numeric:
        raise DataError(
            f"The difficulty column has {len(different)} different values in the test split, such as "
            f"{', '.join(map(repr, different[:3]))}; expected at most {MOST_WORDS}, or numbers. Name "
            "another data.difficulty_column, or null for none."
        )
    sizes = np.array([numbers[value] for value in given if value is not None])
    return quantiles(sizes, max(num_quantiles, 2), rows)


def base_margin(logprobs: Floats, truth: Ints) -> Floats:
    """How much more likely the base found the right label than the best wrong one.

    Args:
        logprobs: ``(n, num_labels)`` of the base model, nats; at least two labels.
        truth: ``(n,)``, index of the right label.

    Returns:
        ``(n,)``, nats; negative where the base was wrong.
    """
    right = logprobs[np.arange(len(truth)), truth]
    others = logprobs.copy()
    others[np.arange(len(truth)), truth] = -np.inf
    result: Floats = right - others.max(axis=1)
    return result


def quantiles(values: Floats, number: int, rows: Ints | None = None) -> Groups:
    """Groups of about equally many examples, from the lowest value to the highest.

    Args:
        values: ``(n,)``.
        number: Of groups; there are fewer where there are fewer examples.
        rows: Index of each example; its position when None.
    """
    order = np.argsort(values, kind="stable")
    rows = np.arange(len(values)) if rows is None else rows
    groups: Groups = {}
    parts = [part for part in np.array_split(order, number) if len(part)]
    for place, part in enumerate(parts, 1):
        ends = f"{values[part[0]]:.3g} to {values[part[-1]]:.3g}"
        groups[f"{place} of {len(parts)} ({ends})"] = rows[np.sort(part)]
    return groups


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

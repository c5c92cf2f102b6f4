"""The closed label set, and what is left out because of it."""

from __future__ import annotations

import difflib
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from doratune.data.render import Renderer
from doratune.data.sieve import Sieve
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message

MAX_LABELS_FROM_ANSWERS = 64


def closed_labels(
    codes: NDArray[np.int32],
    names: list[str],
    tested: NDArray[np.bool_],
    section: DataSection,
    sieve: Sieve,
) -> list[str]:
    """Drops unwanted labels, and takes the closed set from what is left of the training sources.

    Args:
        codes: Number of each row's label, -1 for none.
        names: The labels by number.
        tested: Rows of the test source.
        section: Says which labels are unwanted.
        sieve: Drops them.

    Returns:
        The labels kept, sorted.

    Raises:
        DataError: Fewer than two labels are left, there are too many to be a closed set, an
            excluded label does not exist, or the test source has a label that training has not.
    """
    _check_excluded(section.exclude_labels, names)
    excluded = [name in section.exclude_labels for name in names]
    sieve.drop(_chosen(codes, excluded), "exclude_labels", "label is excluded")
    counts = count_labels(codes[sieve.left & ~tested], names)
    if section.min_label_count > 1:
        rare = [counts[name] < section.min_label_count for name in names]
        reason = f"label has fewer than {section.min_label_count} training examples"
        sieve.drop(_chosen(codes, rare), "min_label_count", reason)
        counts = count_labels(codes[sieve.left & ~tested], names)
    labels = sorted(counts)
    if len(labels) < 2:
        raise DataError(
            f"The closed label set is {labels}; at least two labels are needed. Look at "
            "data.label_column, data.exclude_labels and data.min_label_count "
            f"({section.min_label_count})."
        )
    if section.labels_from_answers and len(labels) > MAX_LABELS_FROM_ANSWERS:
        raise DataError(
            f"data.labels_from_answers is true, but there are {len(labels):,} distinct answers, "
            f"such as {labels[0][:40]!r}; a closed set may have {MAX_LABELS_FROM_ANSWERS}. "
            "Set it to false."
        )
    unseen = count_labels(codes[sieve.left & tested], names)
    for label in labels:
        del unseen[label]
    for label, number in unseen.most_common(1):
        trained = ", ".join(source.path for source in section.sources)
        raise DataError(
            f"The label {label!r} stands at {number} examples of {section.test_source} but nowhere "
            f"in {trained}, so it cannot be learnt. Add training examples of it, name it in "
            "data.exclude_labels, or raise data.min_label_count."
        )
    return labels


def count_labels(codes: NDArray[np.int32], names: list[str]) -> Counter[str]:
    """How often each label occurs."""
    numbers = np.bincount(codes[codes >= 0], minlength=len(names)).tolist()
    return Counter({name: n for name, n in zip(names, numbers, strict=True) if n})


def check_labels(labels: list[str], renderer: Renderer) -> None:
    """Refuses labels that the model could not tell apart.

    Raises:
        DataError: Two labels become the same tokens.
    """
    question = [Message(role="user", content="question")]
    seen: dict[tuple[int, ...], str] = {}
    for label in labels:
        ids = tuple(renderer.answer(question, label))
        if ids in seen:
            raise DataError(
                f"The labels {seen[ids]!r} and {label!r} become the same {len(ids)} tokens with "
                "this tokenizer. Rename one of them."
            )
        seen[ids] = label


def _chosen(codes: NDArray[np.int32], unwanted: list[bool]) -> NDArray[np.bool_]:
    """Rows whose label is unwanted; a row without one is not."""
    return np.array([*unwanted, False])[codes]


def _check_excluded(excluded: list[str], known: list[str]) -> None:
    for label in excluded:
        if label not in known:
            near = difflib.get_close_matches(label, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it."
            raise DataError(
                f"data.exclude_labels names {label!r}, which is no label of the data; {hint}"
            )

"""The closed label set, and what is left out because of it."""

from __future__ import annotations

import difflib
from collections import Counter

from doratune.data.formats import Draft
from doratune.data.load import Row
from doratune.data.render import Renderer
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message

MAX_LABELS_FROM_ANSWERS = 64


class Sieve:
    """Collects what is left out, and why."""

    def __init__(self) -> None:
        self.dropped: list[tuple[Row, str]] = []

    def drop(self, drafts: list[Draft], reason: str) -> None:
        """Notes drafts as left out."""
        self.dropped += [(draft.row, reason) for draft in drafts]

    def without(self, drafts: list[Draft], labels: set[str], reason: str) -> list[Draft]:
        """The drafts whose label is not one of ``labels``; the others are noted."""
        self.drop([draft for draft in drafts if draft.label in labels], reason)
        return [draft for draft in drafts if draft.label not in labels]


def closed_labels(
    drafts: list[list[Draft]], section: DataSection, sieve: Sieve
) -> tuple[list[list[Draft]], list[str]]:
    """Drops unwanted labels, and takes the closed set from what is left of the training source.

    Args:
        drafts: Those of ``source``, then those of ``test_source`` if there is one.
        section: Says which labels are unwanted.
        sieve: Gets what is dropped.

    Returns:
        The drafts kept, and the labels, sorted.

    Raises:
        DataError: Fewer than two labels are left, there are too many to be a closed set, an
            excluded label does not exist, or the test source has a label that training has not.
    """
    counts = Counter(label for draft in drafts[0] if (label := draft.label) is not None)
    every = {label for part in drafts for draft in part if (label := draft.label) is not None}
    _check_excluded(section.exclude_labels, every)
    excluded = set(section.exclude_labels)
    drafts = [sieve.without(part, excluded, "label is excluded") for part in drafts]
    if section.min_label_count > 1:
        rare = {label for label in every if counts[label] < section.min_label_count}
        reason = f"label has fewer than {section.min_label_count} training examples"
        drafts = [sieve.without(part, rare, reason) for part in drafts]
    labels = sorted({label for draft in drafts[0] if (label := draft.label) is not None})
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
    unseen = Counter(label for draft in drafts[-1] if (label := draft.label) not in labels)
    for label, number in unseen.most_common(1):
        raise DataError(
            f"The label {label!r} stands at {number} examples of {section.test_source} but nowhere "
            f"in {section.source}, so it cannot be learnt. Add training examples of it, name it in "
            "data.exclude_labels, or raise data.min_label_count."
        )
    return drafts, labels


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


def _check_excluded(excluded: list[str], known: set[str]) -> None:
    for label in excluded:
        if label not in known:
            near = difflib.get_close_matches(label, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it."
            raise DataError(
                f"data.exclude_labels names {label!r}, which is no label of the data; {hint}"
            )

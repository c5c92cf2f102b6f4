"""Which example goes where: by hash, so that new rows move no old ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from doratune.data.formats import Draft
from doratune.errors import DataError
from doratune.record.files import digest_json
from doratune.record.schemas import SPLITS, Example, Split


def split_of(group: str, seed: int, validation_share: float, test_share: float) -> Split:
    """The split of a group of examples, a function of its arguments alone."""
    point = _point([seed, group])
    if point < test_share:
        return "test"
    return "validation" if point < test_share + validation_share else "train"


def drop_duplicates(drafts: Iterable[Draft]) -> tuple[list[Draft], list[Draft]]:
    """The first of every set of equal drafts, and the others."""
    seen: set[str] = set()
    kept: list[Draft] = []
    repeated: list[Draft] = []
    for draft in drafts:
        (repeated if draft.identity in seen else kept).append(draft)
        seen.add(draft.identity)
    return kept, repeated


def sample(drafts: list[Draft], number: int | None, seed: int) -> tuple[list[Draft], list[Draft]]:
    """At most ``number`` drafts in their order, chosen by hash, and the others."""
    if number is None or len(drafts) <= number:
        return drafts, []
    ranked = sorted(drafts, key=lambda draft: _point([seed, "sample", draft.identity]))
    chosen = {draft.identity for draft in ranked[:number]}
    return (
        [draft for draft in drafts if draft.identity in chosen],
        [draft for draft in drafts if draft.identity not in chosen],
    )


def check_splits(
    examples: Mapping[Split, list[Example]], labels: list[str] | None, needed: Iterable[Split]
) -> None:
    """Refuses splits that nothing could be learnt from or measured on.

    Raises:
        DataError: A needed split is empty, or a label of the closed set has no training example.
    """
    counts = ", ".join(f"{split} {len(examples[split])}" for split in SPLITS)
    for split in needed:
        if not examples[split]:
            raise DataError(
                f"The {split} split is empty ({counts}). Give more examples, or change "
                "data.validation_share, data.test_share, data.max_examples or data.max_length."
            )
    by_label = {split: Counter(e.label for e in examples[split]) for split in SPLITS}
    for label in labels or []:
        if by_label["train"][label] == 0:
            held_out = by_label["validation"][label] + by_label["test"][label]
            raise DataError(
                f"The label {label!r} has no example in the train split and {held_out} in "
                f"validation and test ({counts}), so it cannot be learnt. Give more examples "
                "of it, raise data.min_label_count or data.max_examples, or name it in "
                "data.exclude_labels."
            )


def _point(value: object) -> float:
    """A number in [0, 1), evenly spread over values."""
    return int(digest_json(value)[:13], 16) / 16**13

"""The review sample: which examples a person should look at, and whether their verdict is good enough."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from doratune.errors import DataError, StorageError
from doratune.recipe.gates import ReviewGate
from doratune.record.files import digest_file
from doratune.record.review import ReviewFile, ReviewItem, ReviewVerdict, summarise
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
    hashes = np.fromiter((_hash(seed, id) for id in ids), np.uint64, len(ids))
    order = np.unique(hashes, return_index=True)[1].tolist()
    wanted = max(gate.min_examples, round(gate.share * len(order)))
    counts = Counter(labels[index] for index in order)
    places = _places(counts, min(wanted, gate.max_examples, len(order)))
    chosen = []
    for index in order:
        if places[labels[index]] > 0:
            places[labels[index]] -= 1
            chosen.append(index)
    return chosen


def read_sample(run: RunFolder) -> list[ReviewItem]:
    """The examples to be reviewed.

    Raises:
        StorageError: There are none yet, or the file was changed.
    """
    if not run.review_sample.exists():
        raise StorageError(
            f"{run.review_sample} does not exist, so there is nothing to review yet. "
            "Run `doratune data` first."
        )
    return ReviewItem.read_lines(run.review_sample)


def record_review(run: RunFolder) -> ReviewFile:
    """Counts the verdicts given so far, and notes them in ``review.json`` and ``record.json``.

    Raises:
        StorageError: There is no review sample.
    """
    items = read_sample(run)
    digest = digest_file(run.review_sample)
    verdicts = ReviewVerdict.read_lines(run.verdicts)
    file = summarise(items, verdicts, digest)
    run.run_stage(
        "review",
        inputs={"sample": digest, "verdicts": digest_file(run.verdicts) if verdicts else ""},
        outputs=[run.review],
        work=lambda: file.write(run.review),
    )
    return file


def require_review(run: RunFolder, gate: ReviewGate) -> None:
    """Refuses to go on before people have approved of the review sample, where the recipe asks so.

    Raises:
        DataError: The review is not finished, or too many examples were rejected.
    """
    if gate.action == "off" and not run.verdicts.exists():
        return
    file = record_review(run)
    problem = review_problem(file, gate)
    if gate.action == "fail" and problem:
        raise DataError(
            f"{problem}, and data.gates.review.action is fail. Run `doratune review data {run.path}`, "
            "then the same command again."
        )


def review_problem(file: ReviewFile, gate: ReviewGate) -> str:
    """Why the review is not good enough to train on; empty when it is."""
    if not file.finished:
        return (
            f"{file.num_judged} of the {file.num_examples} examples to be reviewed have a verdict"
        )
    if file.rejected_share > gate.max_rejected:
        return (
            f"Reviewers rejected {file.num_rejected} of {file.num_examples} examples "
            f"({file.rejected_share:.0%}); data.gates.review.max_rejected allows "
            f"{gate.max_rejected:.0%}"
        )
    return ""


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

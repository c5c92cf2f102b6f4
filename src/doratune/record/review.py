"""What people are asked to judge, and what they said: the same files for data and for completions.

The items are written once. Every verdict is appended to a file beside them as it is given, so that a
kill loses none, and the last line of a reviewer on an item is the one that counts.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from doratune.errors import StorageError
from doratune.record.files import digest_file
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Example, Message, Record, RunFile, Split


class ReviewItem(Record):
    """One line of ``data/review.jsonl``: a conversation whose last turn is to be judged."""

    id: str
    """`Example.id`."""
    split: Split
    place: str
    """Where it came from, ``file:line``."""
    label: str | None = None
    messages: list[Message]
    rejected: list[Message] | None = None
    """For preference data, the answer that is not preferred."""

    @classmethod
    def of(cls, example: Example, split: Split) -> Self:
        """The item that shows an example."""
        return cls(
            id=example.id,
            split=split,
            place=example.place,
            label=example.label,
            messages=example.messages,
            rejected=example.rejected,
        )


class ReviewVerdict(Record):
    """One line of ``data/review.verdicts.jsonl``."""

    id: str
    """`ReviewItem.id`."""
    verdict: Literal["accept", "reject"] | None
    """None takes an earlier one back; with a note, the note stands without a verdict."""
    note: str = ""
    reviewer: str
    given_at: str
    """UTC, ISO 8601."""


class ReviewNote(Record):
    """An item that somebody rejected or wrote a note on."""

    id: str
    place: str
    reviewer: str
    verdict: Literal["accept", "reject"] | None
    note: str


class ReviewFile(RunFile):
    """``review.json``: what became of the review sample."""

    sample_digest: str
    """SHA-256 of ``data/review.jsonl``."""
    num_examples: int
    num_judged: int
    """Examples with a verdict."""
    num_rejected: int
    """Examples that somebody rejected."""
    num_disputed: int
    """Examples that somebody accepted and somebody else rejected."""
    reviewers: dict[str, int]
    """Examples that each of them judged."""
    notes: list[ReviewNote] = []

    @property
    def rejected_share(self) -> float:
        """Share of the judged examples that somebody rejected."""
        return self.num_rejected / self.num_judged if self.num_judged else 0.0

    def problem(self, max_rejected: float) -> str:
        """Why the outcome is not good enough to train on; empty when it is.

        Args:
            max_rejected: Share of the sample that may be rejected.
        """
        if self.num_judged < self.num_examples:
            return (
                f"{self.num_judged} of {self.num_examples} examples to be reviewed have a verdict"
            )
        if self.rejected_share > max_rejected:
            return (
                f"{self.num_rejected} of {self.num_examples} reviewed examples were rejected, and "
                f"data.gates.review.max_rejected allows {max_rejected:.0%}; mend the data (the "
                "notes are in review.json) and prepare it again, or take verdicts back"
            )
        return ""


Standing = dict[str, dict[str, ReviewVerdict]]
"""The last word of each reviewer on each item: by item, then by reviewer, in the order given."""


def standing(verdicts: Iterable[ReviewVerdict]) -> Standing:
    """Which verdicts and notes stand."""
    found: Standing = {}
    for line in verdicts:
        words = found.setdefault(line.id, {})
        words.pop(line.reviewer, None)
        if line.verdict is not None or line.note:
            words[line.reviewer] = line
    return found


def append_verdict(path: Path, verdict: ReviewVerdict) -> None:
    """Adds a line and waits until it is on the disk.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two people may review at the same time
            file.seek(0)
            written = file.read()
            whole = written.rfind(b"\n") + 1
            if whole < len(written):  # a kill cut the last line short
                file.truncate(whole)
            file.write(verdict.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"The verdict could not be written to {path}: {error}.") from error


def summarise(
    items: Iterable[ReviewItem], verdicts: Iterable[ReviewVerdict], sample_digest: str
) -> ReviewFile:
    """Counts verdicts on these items; verdicts on others, of an earlier sample, count for nothing."""
    words = standing(verdicts)
    file = ReviewFile(
        sample_digest=sample_digest,
        num_examples=0,
        num_judged=0,
        num_rejected=0,
        num_disputed=0,
        reviewers={},
    )
    for item in items:
        lines = list(words.get(item.id, {}).values())
        given = {line.verdict for line in lines if line.verdict}
        file.num_examples += 1
        file.num_judged += bool(given)
        file.num_rejected += "reject" in given
        file.num_disputed += len(given) == 2
        for line in lines:
            if line.verdict:
                file.reviewers[line.reviewer] = file.reviewers.get(line.reviewer, 0) + 1
            if line.note or line.verdict == "reject":
                file.notes.append(
                    ReviewNote(
                        id=item.id,
                        place=item.place,
                        reviewer=line.reviewer,
                        verdict=line.verdict,
                        note=line.note,
                    )
                )
    return file


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

    Whoever calls it holds the run folder's lock.

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

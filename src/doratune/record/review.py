"""What people are asked to judge, and what they said: the same files for data and for completions.

The items are written once. Every verdict is appended to a file beside them as it is given, so that a
kill loses none, and the last line of a reviewer on an item is the one that counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, Self

from doratune.errors import StorageError
from doratune.record.files import digest_file
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Example, Message, Record, RunFile, Split


class ReviewItem(Record):
    """One line of a ``review.jsonl``: a conversation whose last turn is to be judged."""

    id: str
    """`Example.id`; of completions, a digest that changes with any answer."""
    split: Split | None
    """None for what comes from no data."""
    place: str
    """Where it came from, ``file:line``, or what it is."""
    label: str | None = None
    messages: list[Message]
    rejected: list[Message] | None = None
    """For preference data, the answer that is not preferred."""
    beside: dict[str, str] = {}
    """Other answers, shown but not judged, by what they are."""

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
    """One line of a ``review.verdicts.jsonl``."""

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
    """A ``review.json``: what became of what was to be reviewed."""

    sample_digest: str
    """SHA-256 of the ``review.jsonl``."""
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


class ReviewFiles(NamedTuple):
    """Where something that people review is kept."""

    entry: str
    """Name in ``record.json``."""
    items: Path
    verdicts: Path
    outcome: Path
    maker: str
    """The command that writes the items."""

    def read_items(self) -> list[ReviewItem]:
        """What is to be reviewed.

        Raises:
            StorageError: There is nothing yet, or the file was changed.
        """
        if not self.items.exists():
            raise StorageError(
                f"{self.items} does not exist, so there is nothing to review yet. "
                f"Run `doratune {self.maker}` first."
            )
        return ReviewItem.read_lines(self.items)


def data_review(run: RunFolder) -> ReviewFiles:
    """The sample of the data."""
    return ReviewFiles("review", run.review_sample, run.verdicts, run.review, "data")


def completions_review(run: RunFolder) -> ReviewFiles:
    """What the tuned model answered."""
    folder = run.completions
    return ReviewFiles(
        "completions review",
        folder / "review.jsonl",
        folder / "review.verdicts.jsonl",
        folder / "review.json",
        "completions",
    )


def record_review(run: RunFolder, files: ReviewFiles) -> ReviewFile:
    """Counts the verdicts given so far, and notes them in the outcome and ``record.json``.

    Whoever calls it holds the run folder's lock.

    Raises:
        StorageError: There is nothing to review.
    """
    items = files.read_items()
    digest = digest_file(files.items)
    verdicts = ReviewVerdict.read_lines(files.verdicts)
    file = summarise(items, verdicts, digest)
    run.run_stage(
        files.entry,
        inputs={"sample": digest, "verdicts": digest_file(files.verdicts) if verdicts else ""},
        outputs=[files.outcome],
        work=lambda: file.write(files.outcome),
    )
    return file

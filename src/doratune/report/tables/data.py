"""The rows of the report's tables on data, figures already in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from doratune.record.review import ReviewFile
from doratune.record.schemas import GateReport
from doratune.report.records import Records
from doratune.report.text import NOT_MEASURED, percent

_ACTIONS = {
    "drop": "drop",
    "fail": "stop the run",
    "mask": "mask",
    "off": "off",
    "report": "report",
}


class GateRow(NamedTuple):
    """What one gate did."""

    name: str
    about: str
    """Its thresholds, what kinds it found, and its note."""
    action: str
    checked: str
    found: str
    share: str
    dropped: str


class FoundRow(NamedTuple):
    """An example that a gate found."""

    gate: str
    """Empty where the row above has the same."""
    place: str
    why: str


class ReviewLine(NamedTuple):
    """The outcome of the review in words."""

    outcome: str
    passed: bool | None
    """None where the recipe does not demand a review."""
    demand: str


def gate_rows(gates: Sequence[GateReport]) -> list[GateRow]:
    """One row a gate, in the order in which they ran."""
    return [
        GateRow(
            gate.gate.replace("_", " "),
            "; ".join(filter(None, (_thresholds(gate), _kinds(gate), gate.note))),
            _ACTIONS[gate.action],
            *(
                (f"{gate.num_checked:,}", f"{gate.num_found:,}", percent(gate.share))
                if gate.num_checked
                else (NOT_MEASURED, "", "")
            ),
            f"{gate.num_dropped:,}" if gate.num_checked else "",
        )
        for gate in gates
    ]


def found_rows(gates: Sequence[GateReport]) -> list[FoundRow]:
    """The examples of all gates."""
    return [
        FoundRow("" if index else gate.gate.replace("_", " "), example.place, example.why)
        for gate in gates
        for index, example in enumerate(gate.examples)
    ]


def review_line(records: Records) -> ReviewLine | None:
    """What people said of the review sample; None where nobody has said anything of this one."""
    review = records.review
    if review is None:
        return None
    gate = records.recipe.data.gates.review if records.recipe else None
    demanded = gate is not None and gate.action == "fail"
    problem = review.problem(gate.max_rejected) if gate and demanded else ""
    return ReviewLine(
        outcome(review),
        not problem if demanded else None,
        f"Not enough to train on: {problem}." if problem else "Enough to train on.",
    )


def outcome(review: ReviewFile, of: str = "examples") -> str:
    """What people said, in one sentence."""
    people = ", ".join(f"{name} ({number:,})" for name, number in review.reviewers.items())
    return (
        f"{review.num_judged:,} of {review.num_examples:,} {of} have a verdict, by "
        f"{people or 'nobody'}: {review.num_judged - review.num_rejected:,} accepted, "
        f"{review.num_rejected:,} rejected ({percent(review.rejected_share)}), "
        f"{review.num_disputed:,} of these accepted by somebody else."
    )


def _thresholds(gate: GateReport) -> str:
    def written(value: object) -> str:
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return ", ".join(
        f"{name.replace('_', ' ')} {written(value)}"
        for name, value in gate.thresholds.items()
        if value != []
    )


def _kinds(gate: GateReport) -> str:
    return ", ".join(f"{kind}: {number:,}" for kind, number in gate.kinds.items() if number)

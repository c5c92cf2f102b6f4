"""What is left of the rows, what was left out and why, and what each gate found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from doratune.data.passes.store import KINDS, Names, Store
from doratune.errors import DataError
from doratune.recipe.section import Section
from doratune.record.schemas import GateExample, GateReport

SHOWN = 3
"""Examples that each gate shows."""


class Finding(NamedTuple):
    """What one gate found, before its examples are looked up."""

    gate: str
    action: str
    thresholds: dict[str, Any]
    num_checked: int
    found: NDArray[np.int64]
    """Row numbers."""
    num_dropped: int
    kinds: dict[str, int]
    why: Callable[[int], str]
    """What is wrong with a row."""
    note: str

    @property
    def fails(self) -> bool:
        """Whether this stops the stage."""
        return self.action == "fail" and len(self.found) > 0


class Sieve:
    """Takes rows out, each for one reason.

    Args:
        num_rows: All rows, also unreadable ones.
    """

    def __init__(self, num_rows: int) -> None:
        self.left = np.ones(num_rows, np.bool_)
        """Rows not left out yet."""
        self.findings: list[Finding] = []
        self.reasons: list[tuple[str, str]] = []
        """Gates, or keys of the recipe, and their reasons."""
        self.reason_of = np.full(num_rows, -1, np.int16)
        """Index into `reasons` for each row that was left out."""

    def drop(self, rows: NDArray[np.bool_], gate: str, reason: str) -> int:
        """Leaves rows out, but for those that are left out already, and returns their number."""
        rows = rows & self.left
        if rows.any():
            if (gate, reason) not in self.reasons:
                self.reasons.append((gate, reason))
            self.reason_of[rows] = self.reasons.index((gate, reason))
            self.left &= ~rows
        return int(rows.sum())

    def judge(
        self,
        gate: str,
        options: Section,
        found: NDArray[np.bool_],
        why: Callable[[int], str],
        reason: str,
        *,
        among: NDArray[np.bool_] | None = None,
        kinds: dict[str, int] | None = None,
        dropped: int = 0,
        note: str = "",
    ) -> None:
        """Notes what a gate found among the rows that are left, and does what its action says.

        Args:
            gate: Name, as in the recipe.
            options: The gate's section of the recipe.
            found: Which rows.
            why: What is wrong with one.
            reason: Why a row is dropped, the same for all.
            among: The rows that were checked, if not all that are left.
            kinds: How many rows of each kind were found.
            dropped: Rows the gate has dropped already, whatever its action.
            note: A sentence for the report.
        """
        checked = self.left if among is None else among & self.left
        if options.action == "off":  # type: ignore[attr-defined]  # all gates have an action
            checked = np.zeros_like(checked)
        rows = np.flatnonzero(found & checked)
        num_checked = int(checked.sum())
        kinds = {kind: number for kind, number in (kinds or {}).items() if number}
        thresholds = options.model_dump()
        action = thresholds.pop("action")
        if action == "drop":
            dropped += self.drop(found & checked, gate, reason)
        self.findings.append(
            Finding(gate, action, thresholds, num_checked, rows, dropped, kinds, why, note)
        )

    def skip(self, gate: str, options: Section, note: str = "") -> None:
        """Notes that a gate did not run."""
        nothing = np.zeros(len(self.left), np.bool_)
        self.judge(gate, options, nothing, str, "", among=nothing, note=note)

    def add_note(self, gate: str, note: str) -> None:
        """Adds a sentence to what is said of a gate."""
        for number, finding in enumerate(self.findings):
            if finding.gate == gate:
                together = f"{finding.note} {note}".strip()
                self.findings[number] = finding._replace(note=together)

    def counts(self) -> dict[str, int]:
        """Rows left out, by reason."""
        found: Counter[str] = Counter()
        for number, (_, reason) in enumerate(self.reasons):
            found[reason] += int((self.reason_of == number).sum())
        return dict(found)

    def reports(self, store: Store, id_of: Callable[[int], str]) -> list[GateReport]:
        """Reports on all gates, in the order in which they ran."""
        return [
            GateReport(
                gate=finding.gate,
                action=finding.action,  # type: ignore[arg-type]  # checked here
                thresholds=finding.thresholds,
                num_checked=finding.num_checked,
                num_found=len(finding.found),
                num_dropped=finding.num_dropped,
                kinds=finding.kinds,
                examples=[
                    GateExample(id=id_of(row), place=store.place(row), why=finding.why(row))
                    for row in finding.found[:SHOWN].tolist()
                ],
                note=finding.note,
            )
            for finding in self.findings
        ]


def refuse_failures(reports: list[GateReport]) -> None:
    """Stops the stage where a gate says so.

    Raises:
        DataError: The action of a gate is ``fail`` and it found something.
    """
    problems = []
    for report in reports:
        if report.action != "fail" or not report.num_found:
            continue
        lines = [
            f"The gate {report.gate} found {report.num_found:,} of {report.num_checked:,} "
            f"({report.share:.1%}), and data.gates.{report.gate}.action is fail:",
            *(f"  {example.place}: {example.why}" for example in report.examples),
        ]
        more = report.num_found - len(report.examples)
        if more:
            lines.append(f"  and {more:,} more")
        problems.append("\n".join(lines))
    if problems:
        raise DataError(
            "\n".join(problems) + "\nCorrect the data, or choose another action for the gate. "
            "Nothing was written."
        )


def count_kinds(codes: NDArray[np.int32], names: Names) -> dict[str, int]:
    """How many rows have each kind; the codes stand for several kinds of one row together."""
    found: Counter[str] = Counter()
    for code, number in zip(*np.unique(codes[codes >= 0], return_counts=True), strict=True):
        for kind in names.all[code].split(KINDS):
            found[kind] += int(number)
    return dict(found.most_common())

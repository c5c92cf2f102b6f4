"""The primary metric on parts of the examples."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from doratune.record.evaluation import METRICS, EvalFile, Stratum
from doratune.report import units
from doratune.report.charts.intervals import bar_chart

MAX_ROWS = 40
"""Of each kind, the largest ones."""
_TITLES = {
    "label": "By label",
    "difficulty": "By difficulty, as the data says",
    "base margin": "By difficulty for the base model",
}
_KEYS = tuple(_TITLES)


class StratumRow(NamedTuple):
    """One part of the examples."""

    name: str
    num_examples: str
    base: tuple[str, str]
    """Value and interval."""
    tuned: tuple[str, str]
    difference: tuple[str, str]
    chart: Markup


class Strata(NamedTuple):
    """The parts by one property."""

    by: str
    title: str
    rows: list[StratumRow]
    num_strata: int


def strata(file: EvalFile) -> list[Strata]:
    """A table for each property by which the examples were divided, in the order of the file."""
    found: dict[str, list[Stratum]] = {key: [] for key in _KEYS}
    for stratum in file.strata:
        found[stratum.by].append(stratum)
    return [
        Strata(by, _TITLES[by], [_row(file.primary, row) for row in _largest(rows)], len(rows))
        for by, rows in found.items()
        if rows
    ]


def _largest(rows: list[Stratum]) -> list[Stratum]:
    kept = sorted(range(len(rows)), key=lambda i: -rows[i].tuned.n)[:MAX_ROWS]
    return [rows[i] for i in sorted(kept)]


def _row(primary: str, row: Stratum) -> StratumRow:
    unit = METRICS[primary].unit
    high = 1.0 if unit == "share" else max(row.base.high, row.tuned.high)
    return StratumRow(
        row.name,
        f"{row.tuned.n:,}",
        (units.value(primary, row.base.value), units.ends(primary, row.base)),
        (units.value(primary, row.tuned.value), units.ends(primary, row.tuned)),
        (
            units.change(primary, row.difference.value),
            units.change_ends(primary, row.difference),
        ),
        bar_chart(row.base, row.tuned, high),
    )

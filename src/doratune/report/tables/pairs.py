"""Every arm of an A/B against the reference."""

from __future__ import annotations

from typing import NamedTuple

from doratune.record.comparison import ARMS, CompareFile, PairFigures
from doratune.report import units
from doratune.report.charts.intervals import ForestRow
from doratune.report.tables.arms import Forest, arm_name, forest_near
from doratune.report.text import p_value, plain


class PairRow(NamedTuple):
    """One arm against the reference."""

    name: str
    difference: tuple[str, str]
    """Figure and interval."""
    p_value: str
    adjusted: str
    mcnemar: str
    detectable: str
    verdict: str
    time: str
    memory: str


def pair_rows(file: CompareFile) -> list[PairRow]:
    """A row for every pair."""
    return [
        PairRow(
            f"{arm_name(pair.arm)} against {ARMS[pair.reference]}",
            (
                units.change(file.primary, pair.difference.value),
                units.change_ends(file.primary, pair.difference),
            ),
            p_value(pair.p_value),
            p_value(pair.adjusted_p_value),
            p_value(pair.mcnemar_p_value) if pair.mcnemar_p_value is not None else "—",
            units.size(file.primary, pair.smallest_detectable)
            if pair.smallest_detectable is not None
            else "none with one seed",
            pair.verdict,
            _ratio(pair.time_ratio),
            _ratio(pair.memory_ratio),
        )
        for pair in file.pairs
    ]


def _ratio(ratio: float | None) -> str:
    return f"{plain(ratio, 2)} ×" if ratio is not None else "—"


def pair_forest(file: CompareFile) -> Forest:
    """The differences from the reference, with a line at zero."""
    rows = [
        ForestRow(
            f"{arm_name(pair.arm)} − {ARMS[pair.reference]}",
            pair.difference,
            f"{units.change(file.primary, pair.difference.value)} "
            f"({units.change_ends(file.primary, pair.difference)})",
            _style(pair),
        )
        for pair in file.pairs
    ]
    return forest_near(
        rows,
        [pair.arm for pair in file.pairs],
        "difference from the reference",
        lambda value: units.change(file.primary, value).removesuffix(" points"),
        zero=0.0,
    )


def _style(pair: PairFigures) -> str:
    return {"better": "tuned", "worse": "lost", "not distinguishable": "base"}[pair.verdict]

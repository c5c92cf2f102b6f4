"""What the arms of an A/B learned: magnitude and direction of every weight matrix."""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from doratune.record.comparison import Arm, ChangeCorrelation, CompareFile, MatrixChange
from doratune.report.charts.change import Scatter, scatter_chart
from doratune.report.tables.arms import arm_name
from doratune.report.text import NOT_MEASURED, plain

QUERY = "q_proj"
"""The paper's Figure 2 shows query matrices."""


class ScatterRow(NamedTuple):
    """One kind of matrix in all arms."""

    kind: str
    """A module's name, or ``all``."""
    panels: list[tuple[str, str, Scatter]]
    """Arm, correlation in words, drawing."""


def scatters(file: CompareFile) -> list[ScatterRow]:
    """All matrices, and those of the paper's figure where they are there."""
    found = {(one.arm, one.kind): one for one in file.correlations}
    kinds = ["all", QUERY] if any(kind == QUERY for _, kind in found) else ["all"]
    means = _means_over_seeds(file)
    return [
        ScatterRow(
            kind,
            [
                (
                    arm_name(arm),
                    correlated(found.get((arm, kind))),
                    scatter_chart(
                        f"{arm_name(arm)}, {kind}",
                        [
                            pair
                            for layer, pair in by_layer.items()
                            if kind in ("all", layer.rpartition(".")[2])
                        ],
                        one.slope if (one := found.get((arm, kind))) else None,
                    ),
                )
                for arm, by_layer in means.items()
            ],
        )
        for kind in kinds
        if means
    ]


def _means_over_seeds(file: CompareFile) -> dict[Arm, dict[str, tuple[float, float]]]:
    """Direction and magnitude change of each matrix, by arm and layer."""
    found: dict[Arm, dict[str, list[MatrixChange]]] = {}
    for change in file.changes:
        found.setdefault(change.arm, {}).setdefault(change.layer, []).append(change)
    return {
        arm: {
            layer: (
                fmean(one.direction_change for one in rows),
                fmean(one.magnitude_change for one in rows),
            )
            for layer, rows in by_layer.items()
        }
        for arm, by_layer in found.items()
    }


def correlated(one: ChangeCorrelation | None) -> str:
    """A correlation with its interval."""
    value, ends = _figures(one)
    return f"{value} ({ends})" if ends else value


def _figures(one: ChangeCorrelation | None) -> tuple[str, str]:
    if one is None:
        return NOT_MEASURED, ""
    interval = one.correlation
    return plain(interval.value, 2), f"{plain(interval.low, 2)} to {plain(interval.high, 2)}"


def correlation_rows(file: CompareFile) -> list[tuple[str, list[tuple[str, str]]]]:
    """Kind of matrix, and its correlation and interval in every arm, in their order."""
    found = {(one.arm, one.kind): one for one in file.correlations}
    arms = list(dict.fromkeys(change.arm for change in file.changes))
    kinds = dict.fromkeys(one.kind for one in file.correlations)
    return [(kind, [_figures(found.get((arm, kind))) for arm in arms]) for kind in kinds]

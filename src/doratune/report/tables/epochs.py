"""What was measured on the validation split after each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from markupsafe import Markup

from doratune.record.evaluation import METRICS, EpochFigures
from doratune.report import units
from doratune.report.charts.curves import epoch_chart

MAX_ROWS = 20


class EpochsView(NamedTuple):
    """The section."""

    charts: list[tuple[str, str, Markup]]
    """Title, better direction and drawing of each metric."""
    titles: list[str]
    rows: list[tuple[str, str, list[str]]]
    """Epoch, step and figures; the last ones."""
    num_epochs: int
    num_examples: int


def epochs(lines: Sequence[EpochFigures]) -> EpochsView | None:
    """Drawings and rows; None where nothing was measured in mid-training."""
    if not lines:
        return None
    there = {key for line in lines for key in line.metrics}
    keys = [key for key in (*METRICS, units.OUT_OF_DOMAIN) if key in there]
    charts: list[tuple[str, str, Markup]] = []
    for key in keys:
        points = [(line.epoch, line.metrics[key]) for line in lines if key in line.metrics]
        title = units.metric(key).title
        drawing = epoch_chart(title, points, partial(units.value, key))
        charts.append((title, units.metric(key).better, drawing))
    rows = [
        (
            f"{line.epoch:g}",
            f"{line.step:,}",
            [units.value(key, line.metrics[key]) if key in line.metrics else "—" for key in keys],
        )
        for line in lines[-MAX_ROWS:]
    ]
    titles = [units.metric(key).title for key in keys]
    return EpochsView(charts, titles, rows, len(lines), lines[-1].num_examples)

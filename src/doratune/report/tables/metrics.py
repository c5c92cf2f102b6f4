"""Metrics of base and tuned, side by side."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from doratune.record.evaluation import METRICS, EvalFile, Interval
from doratune.report import units
from doratune.report.charts.intervals import dot_chart
from doratune.report.text import equals, p_value


class MetricRow(NamedTuple):
    """One metric of base and tuned."""

    name: str
    key: str
    better: str
    """``higher`` or ``lower``."""
    base: tuple[str, str]
    """Value and interval."""
    tuned: tuple[str, str]
    difference: tuple[str, str]
    """Value, and interval with p-value, or the reason why there is none."""
    chart: Markup


def metric_rows(file: EvalFile) -> list[MetricRow]:
    """A row for every metric that both models have."""
    return [
        MetricRow(
            metric.title,
            key,
            metric.better,
            _written(key, file.base.metrics[key]),
            _written(key, file.tuned.metrics[key]),
            _difference(file, key),
            dot_chart(file.base.metrics[key], file.tuned.metrics[key]),
        )
        for key, metric in METRICS.items()
        if key in file.base.metrics and key in file.tuned.metrics
    ]


def _written(key: str, interval: Interval) -> tuple[str, str]:
    return units.value(key, interval.value), units.ends(key, interval)


def _difference(file: EvalFile, key: str) -> tuple[str, str]:
    found = file.differences.get(key)
    if found is None:
        gap = file.tuned.metrics[key].value - file.base.metrics[key].value
        return units.change(key, gap), "no paired interval"
    ends = units.change_ends(key, found.value)
    if found.p_value is not None:
        ends += f", McNemar {p_value(found.p_value)}"
    return units.change(key, found.value.value), ends


def how_measured(file: EvalFile) -> str:
    """How many examples and which intervals are behind the rows, in one paragraph."""
    methods: dict[str, list[str]] = {}
    for key, metric in METRICS.items():
        if interval := file.tuned.metrics.get(key):
            about = f"{interval.method}, {equals('n', interval.n)}"
            methods.setdefault(about, []).append(metric.title.partition(", nats")[0])
    paired = {row.value.method for row in file.differences.values()}
    return " ".join(
        [
            *(f"{', '.join(titles)}: {about}." for about, titles in methods.items()),
            *(f"Differences, tuned minus base on the same examples: {m}." for m in sorted(paired)),
        ]
    )

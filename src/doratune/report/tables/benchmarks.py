"""What became of abilities that were not trained."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from doratune.record.benchmarks import BenchmarkFigures, BenchmarksFile, OutOfDomain
from doratune.record.evaluation import Interval
from doratune.report.charts.intervals import ForestRow, forest_chart
from doratune.report.text import (
    count,
    figure,
    figure_range,
    p_value,
    percent,
    percent_range,
    plain,
    points,
    points_range,
)


class BenchmarkRow(NamedTuple):
    """One benchmark."""

    name: str
    about: str
    """lm-eval's version and metric, worked examples, questions."""
    base: tuple[str, str]
    """Value and interval."""
    tuned: tuple[str, str]
    difference: tuple[str, str]
    """Value, and interval with p-value."""
    detectable: str
    passed: bool


class SubjectForest(NamedTuple):
    """The subjects of one benchmark, the largest loss first."""

    benchmark: str
    charts: list[Markup]
    num_subjects: int


class BenchmarksView(NamedTuple):
    """The section."""

    rows: list[BenchmarkRow]
    overview: list[Markup]
    forests: list[SubjectForest]
    allowed: str
    out_of_domain: list[tuple[str, str, str]]
    """Name, figure and key; empty where it was not measured."""


def benchmarks(file: BenchmarksFile) -> BenchmarksView:
    """Rows and forest plots."""
    limit = -file.max_drop_points / 100
    return BenchmarksView(
        [_row(one) for one in file.benchmarks],
        _forest(
            [(one.benchmark, one.num_questions, one.difference) for one in file.benchmarks],
            "tuned minus base of each benchmark",
            limit,
        )
        if file.benchmarks
        else [],
        [_subjects(one, limit) for one in file.benchmarks if len(one.subjects) > 1],
        f"{file.max_drop_points:g} points",
        _out_of_domain(file.out_of_domain) if file.out_of_domain else [],
    )


def _row(one: BenchmarkFigures) -> BenchmarkRow:
    shots = {0: "no worked example", 1: "1 worked example"}
    part = f" of {one.num_available:,}" if one.num_available > one.num_questions else ""
    average = ", mean over subjects" if one.average == "subjects" else ""
    return BenchmarkRow(
        one.benchmark,
        f"{one.metric}, {shots.get(one.num_fewshot, f'{one.num_fewshot} worked examples')}, "
        f"{one.num_questions:,}{part} questions{average}; {one.version}",
        (percent(one.base.value), percent_range(one.base)),
        (percent(one.tuned.value), percent_range(one.tuned)),
        (
            f"{points(one.difference.value)} points",
            f"{points_range(one.difference)}, McNemar {p_value(one.p_value)}",
        ),
        f"{plain(100 * one.smallest_detectable, 1)} points",
        one.passed,
    )


def _subjects(one: BenchmarkFigures, limit: float) -> SubjectForest:
    ordered = sorted(one.subjects, key=lambda row: (row.difference.value, row.subject))
    rows = [(row.subject, row.num_questions, row.difference) for row in ordered]
    charts = _forest(rows, f"tuned minus base of each subject of {one.benchmark}", limit)
    return SubjectForest(one.benchmark, charts, len(rows))


def _forest(rows: list[tuple[str, int, Interval]], label: str, limit: float) -> list[Markup]:
    drawn = [
        ForestRow(
            f"{name.replace('_', ' ')} ({number:,})",
            difference,
            f"{points(difference.value)} ({points_range(difference)})",
            # An interval that holds zero says nothing for certain.
            "tuned" if difference.low > 0 else "lost" if difference.high < 0 else "base",
        )
        for name, number, difference in rows
    ]
    return forest_chart(drawn, label, lambda value: points(value), zero=0.0, limit=limit)


def _out_of_domain(one: OutOfDomain) -> list[tuple[str, str, str]]:
    def written(interval: Interval) -> str:
        return f"{figure(interval.value)} ({figure_range(interval)})"

    return [
        ("Texts", f"{one.num_texts:,} of {one.source}, {count(one.num_tokens)} tokens", "source"),
        ("Perplexity of base", written(one.base), "base"),
        ("Perplexity of tuned", written(one.tuned), "tuned"),
        ("Tuned over base", written(one.ratio), "ratio"),
    ]

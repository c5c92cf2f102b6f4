"""Confidence against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from doratune.record.evaluation import CalibrationBin, CoveragePoint, Model
from doratune.report.svg import Drawing, Frame, ticks
from doratune.report.text import count, percent


def reliability_chart(bins: Sequence[CalibrationBin], model: str) -> Markup:
    """Accuracy against confidence, bin by bin, over a histogram of the bins."""
    drawing = Drawing(420, 440, f"reliability diagram of {model}", "reliability")
    frame = Frame(46, 12, 400, 332, (0, 1), (0, 1))
    for tick in ticks(0, 1, 6):
        drawing.line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid")
        drawing.text(frame.left - 8, frame.y(tick) + 4, percent(tick, 0), anchor="end")
        drawing.text(frame.x(tick), 426, percent(tick, 0))
    for row in bins:
        left, right = frame.x(row.low) + 1.5, frame.x(row.high) - 1.5
        if row.n and row.accuracy is not None and row.confidence is not None:
            reached, claimed = frame.y(row.accuracy), frame.y(row.confidence)
            drawing.rect(left, reached, right, frame.bottom, f"bar {model}")
            drawing.rect(left, min(reached, claimed), right, max(reached, claimed), "gap")
            drawing.line(left, claimed, right, claimed, "claimed")
    drawing.line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), "identity")
    _histogram(drawing, bins, frame)
    return drawing.markup()


def _histogram(drawing: Drawing, bins: Sequence[CalibrationBin], above: Frame) -> None:
    """Bars of the number of examples, under the diagram ``above``."""
    most = max((row.n for row in bins), default=0) or 1
    frame = Frame(above.left, 360, above.right, 408, (0, 1), (0, most))
    drawing.line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    for row in bins:
        left, right = frame.x(row.low) + 1.5, frame.x(row.high) - 1.5
        drawing.rect(left, frame.y(row.n), right, frame.bottom, "counts")
        if row.n and len(bins) <= 15:
            drawing.text((left + right) / 2, frame.y(row.n) - 4, count(row.n), "minor")


def coverage_chart(curves: Mapping[Model, Sequence[CoveragePoint]]) -> Markup:
    """Accuracy of the answers that are given, over the share that is given, for each model."""
    drawing = Drawing(420, 300, "accuracy over coverage", "reliability")
    frame = Frame(46, 12, 400, 262, (0, 1), (0, 1))
    for tick in ticks(0, 1, 6):
        drawing.line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid")
        drawing.text(frame.left - 8, frame.y(tick) + 4, percent(tick, 0), anchor="end")
        drawing.text(frame.x(tick), frame.bottom + 18, percent(tick, 0))
    drawing.text(frame.right, frame.bottom + 34, "share that is answered", "minor", "end")
    for model, curve in curves.items():
        ordered = sorted(curve, key=lambda point: point.coverage)
        drawing.path(
            [(frame.x(p.coverage), frame.y(p.accuracy.value)) for p in ordered], f"curve {model}"
        )
        for point in ordered:
            x, ends = frame.x(point.coverage), point.accuracy
            drawing.line(x, frame.y(ends.low), x, frame.y(ends.high), f"whisker {model}")
            drawing.dot(x, frame.y(ends.value), 3.5, model)
    return drawing.markup()

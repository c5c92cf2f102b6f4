"""Figures with their intervals: two beside each other, and many below each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from doratune.record.evaluation import Interval
from doratune.report.svg import Drawing, Frame, ticks
from doratune.report.text import shortened

WIDTHS = (900, 380)
"""A drawing of long lines is made twice: for wide pages and paper, and for telephones."""


def dot_chart(base: Interval, tuned: Interval) -> Markup:
    """Two dots with whiskers, on a scale from zero to one, or as far as they reach."""
    drawing = Drawing(150, 34, "intervals of base and tuned", "whiskers")
    low, high = min(0.0, base.low, tuned.low), max(base.high, tuned.high)
    frame = Frame(4, 0, 146, 34, (low, high if high > 1 else 1.0), (0, 1))
    for edge in {*frame.x_range, 0.0}:
        drawing.line(frame.x(edge), 4, frame.x(edge), 30, "grid")
    for interval, y, style in ((base, 11, "base"), (tuned, 23, "tuned")):
        drawing.line(4, y, 146, y, "grid")
        drawing.line(frame.x(interval.low), y, frame.x(interval.high), y, f"whisker {style}")
        drawing.dot(frame.x(interval.value), y, 3.5, style)
    return drawing.markup()


def bar_chart(base: Interval, tuned: Interval, high: float) -> Markup:
    """Two bars from zero with whiskers, on a scale up to ``high``."""
    drawing = Drawing(170, 30, "bars of base and tuned", "bars")
    frame = Frame(2, 0, 168, 30, (0, high), (0, 1))
    drawing.line(frame.left, 2, frame.left, 28, "axis")
    for interval, y, style in ((base, 4, "base"), (tuned, 16, "tuned")):
        drawing.rect(frame.left, y, frame.x(max(interval.value, 0)), y + 10, f"bar {style}")
        drawing.line(frame.x(interval.low), y + 5, frame.x(interval.high), y + 5, "error")
    return drawing.markup()


class ForestRow(NamedTuple):
    """One line of a forest plot."""

    label: str
    interval: Interval
    written: str
    """The figure in words."""
    style: str = "tuned"
    dots: Sequence[float] = ()
    """Single measurements behind the figure."""


def forest_chart(
    rows: Sequence[ForestRow],
    label: str,
    axis: Callable[[float], str],
    *,
    zero: float | None = None,
    limit: float | None = None,
) -> list[Markup]:
    """Dots with whiskers below each other, at the `WIDTHS`.

    Args:
        rows: What to draw, from the top.
        label: What it is, for those who cannot see it.
        axis: Writes a value at the foot.
        zero: Where a solid line stands.
        limit: Where a dotted line stands.
    """
    return [_forest(rows, label, axis, zero, limit, width) for width in WIDTHS]


def _forest(
    rows: Sequence[ForestRow],
    label: str,
    axis: Callable[[float], str],
    zero: float | None,
    limit: float | None,
    width: float,
) -> Markup:
    wide = width > 500
    pitch, top = (22, 6) if wide else (40, 4)
    bottom = top + pitch * len(rows)
    drawing = Drawing(width, bottom + 26, label, "wide" if wide else "narrow")
    left, right = (290, width - 210) if wide else (6, width - 6)
    frame = Frame(left, top, right, bottom, _span(rows, zero, limit), (0, 1))
    for tick in ticks(*frame.x_range, 7 if wide else 5):
        drawing.line(frame.x(tick), top, frame.x(tick), bottom, "grid")
        drawing.text(frame.x(tick), bottom + 18, axis(tick))
    for place, style in ((zero, "axis"), (limit, "mark")):
        if place is not None:
            drawing.line(frame.x(place), top, frame.x(place), bottom, style)
    for number, row in enumerate(rows):
        y = top + pitch * (number + 0.5) + (0 if wide else 9)
        words = y + 4 if wide else y - 10
        name = shortened(row.label, 44 if wide else 34)
        drawing.text(0, words, name, "name", "start")
        drawing.text(width, words, row.written, "name", "end")
        low, high = frame.x(row.interval.low), frame.x(row.interval.high)
        drawing.line(low, y, high, y, f"whisker {row.style}")
        for one in row.dots:
            drawing.dot(frame.x(one), y, 2.2, "single")
        drawing.dot(frame.x(row.interval.value), y, 4, row.style, f"{row.label}: {row.written}")
    return drawing.markup()


def _span(
    rows: Sequence[ForestRow], zero: float | None, limit: float | None
) -> tuple[float, float]:
    """The range of the scale, with a little room at both ends."""
    ends = [value for row in rows for value in (row.interval.low, row.interval.high, *row.dots)]
    ends += [value for value in (zero, limit) if value is not None]
    finite = [value for value in ends if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    room = 0.03 * (high - low) or 0.01
    return low - room, high + room

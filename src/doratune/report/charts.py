"""The drawings of the report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean

from markupsafe import Markup

from doratune.record.evaluation import CalibrationBin, Interval
from doratune.record.schemas import LayerChange, Step
from doratune.report.svg import Drawing, Frame, ticks
from doratune.report.text import count, percent, small

MAX_POINTS = 400
"""A loss curve of more steps is drawn by the means of so many stretches."""


def interval_chart(base: Interval, tuned: Interval, high: float) -> Markup:
    """Two dots with whiskers on a scale from zero to ``high``."""
    drawing = Drawing(150, 34, "intervals of base and tuned", "whiskers")
    frame = Frame(4, 0, 146, 34, (0, high), (0, 1))
    for edge in (0.0, high):
        drawing.line(frame.x(edge), 4, frame.x(edge), 30, "grid")
    for interval, y, style in ((base, 11, "base"), (tuned, 23, "tuned")):
        drawing.line(4, y, 146, y, "grid")
        drawing.line(frame.x(interval.low), y, frame.x(interval.high), y, f"whisker {style}")
        drawing.dot(frame.x(interval.value), y, 3.5, style)
    return drawing.markup()


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


def loss_chart(steps: Sequence[Step], validation: float | None, width: float) -> Markup:
    """Loss of every step, its moving average, the learning rate, and the validation loss."""
    style = "wide" if width > 500 else "narrow"
    drawing = Drawing(width, 290, "training loss over steps", style)
    losses = [step.loss for step in steps]
    finite = [loss for loss in [*losses, validation] if loss is not None and math.isfinite(loss)]
    last = max(step.step for step in steps)
    frame = Frame(46, 14, width - 16, 250, (0, last), (0, max(finite, default=1) * 1.04))
    for tick in ticks(*frame.y_range, 6):
        drawing.line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid")
        drawing.text(frame.left - 8, frame.y(tick) + 4, f"{tick:g}", anchor="end")
    for tick in ticks(0, last, 9 if style == "wide" else 4):
        if tick == int(tick):
            drawing.text(frame.x(tick), frame.bottom + 20, f"{tick:,.0f}")
    drawing.text(frame.right, frame.bottom + 36, "optimizer step", "minor", "end")

    fastest = max(step.learning_rate for step in steps) or 1.0
    rate = frame._replace(y_range=(0, fastest * 1.04))
    x = [frame.x(step.step) for step in steps]
    drawing.path(_thinned(x, [rate.y(step.learning_rate) for step in steps]), "rate")
    drawing.path(_thinned(x, [frame.y(loss) for loss in losses]), "raw")
    drawing.path(_thinned(x, [frame.y(loss) for loss in smoothed(losses)]), "smooth")
    if validation is not None and math.isfinite(validation):
        drawing.line(frame.left, frame.y(validation), frame.right, frame.y(validation), "mark")
        drawing.dot(frame.right, frame.y(validation), 4, "mark")
    return drawing.markup()


def smoothed(values: Sequence[float]) -> list[float]:
    """The centred moving average over a twentieth of the values; shorter windows at the ends."""
    reach = len(values) // 40
    return [fmean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]


def _thinned(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """The points, or the means of `MAX_POINTS` stretches of them."""
    size = max(1, math.ceil(len(x) / MAX_POINTS))
    return [(fmean(x[i : i + size]), fmean(y[i : i + size])) for i in range(0, len(x), size)]


def layers_by_kind(layers: Sequence[LayerChange]) -> dict[str, list[tuple[int, LayerChange]]]:
    """The layers with their depth, by the last part of their name, in order of appearance.

    The depth is the first number in the name; a module outside the stack has depth 0.
    """
    kinds: dict[str, list[tuple[int, LayerChange]]] = {}
    for layer in layers:
        number = re.search(r"\.(\d+)\.", layer.layer)
        depth = int(number[1]) if number else 0
        kinds.setdefault(layer.layer.rpartition(".")[2], []).append((depth, layer))
    return kinds


def change_charts(layers: Sequence[LayerChange]) -> dict[str, Markup]:
    """For each kind of module the change of magnitude over the change of direction, by depth.

    All drawings have the same scales, so that they can be compared.
    """
    kinds = layers_by_kind(layers)
    deepest = max((depth for rows in kinds.values() for depth, _ in rows), default=0)
    top = (
        max((layer.magnitude_change for layer in layers), default=0),
        max((layer.direction_change for layer in layers), default=0),
    )
    return {kind: _change_chart(kind, rows, deepest, top) for kind, rows in kinds.items()}


def _change_chart(
    kind: str, rows: Sequence[tuple[int, LayerChange]], deepest: int, top: tuple[float, float]
) -> Markup:
    drawing = Drawing(220, 178, f"change of {kind} by depth", "change")
    magnitude = Frame(12, 20, 210, 72, (0, deepest), (0, top[0]))
    direction = Frame(12, 102, 210, 154, (0, deepest), (0, top[1]))
    for frame, name in (
        (magnitude, small(100 * top[0]) + "\N{NO-BREAK SPACE}%"),
        (direction, small(top[1])),
    ):
        drawing.line(6, frame.top, 214, frame.top, "grid")
        drawing.line(6, frame.bottom, 214, frame.bottom, "axis")
        drawing.text(6, frame.top - 7, name, "minor", "start")
    for depth, layer in rows:
        for frame, value, style in (
            (magnitude, layer.magnitude_change, "tuned"),
            (direction, layer.direction_change, "base"),
        ):
            if math.isfinite(value):
                x, y = frame.x(depth), frame.y(value)
                drawing.line(x, frame.bottom, x, y, f"stem {style}")
                drawing.dot(x, y, 2.4, style, f"{layer.layer}: {small(value)}")
    drawing.text(magnitude.x(0), 170, "0", "minor")
    drawing.text(magnitude.right, 170, f"layer {deepest}", "minor", "end")
    drawing.text(214, 13, "magnitude", "minor", "end")
    drawing.text(214, 95, "direction", "minor", "end")
    return drawing.markup()

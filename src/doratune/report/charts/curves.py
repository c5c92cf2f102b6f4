"""Figures over the course of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from markupsafe import Markup

from doratune.record.schemas import Step
from doratune.report.svg import Drawing, Frame, ticks

MAX_POINTS = 400
"""A curve of more steps is drawn by the means of so many stretches."""
MAX_PANEL_POINTS = 120
"""The same, for the small curves of a panel."""


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
    x = thinned([frame.x(step.step) for step in steps])
    means = thinned(losses)
    drawing.path(
        zip(x, map(rate.y, thinned([s.learning_rate for s in steps])), strict=True), "rate"
    )
    drawing.path(zip(x, map(frame.y, means), strict=True), "raw")
    drawing.path(zip(x, map(frame.y, smoothed(means)), strict=True), "smooth")
    if validation is not None and math.isfinite(validation):
        drawing.line(frame.left, frame.y(validation), frame.right, frame.y(validation), "mark")
        drawing.dot(frame.right, frame.y(validation), 4, "mark")
    return drawing.markup()


def smoothed(values: Sequence[float]) -> list[float]:
    """The centred moving average over a twentieth of the values; shorter windows at the ends."""
    reach = len(values) // 40
    return [fmean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]


def thinned(values: Sequence[float], most: int = MAX_POINTS) -> list[float]:
    """The values, or the means of at most ``most`` stretches of them."""
    size = max(1, math.ceil(len(values) / most))
    return [fmean(values[i : i + size]) for i in range(0, len(values), size)]


def panel_charts(
    runs: dict[str, list[list[Step]]],
) -> dict[str, Markup]:
    """For each arm the smoothed loss of all its runs, on one pair of scales."""
    last = max((step.step for arm in runs.values() for run in arm for step in run), default=1)
    curves = {
        arm: [_smooth_curve(steps) for steps in of_arm if steps] for arm, of_arm in runs.items()
    }
    finite = [
        loss for arm in curves.values() for run in arm for _, loss in run if math.isfinite(loss)
    ]
    high = max(finite, default=1.0) * 1.04
    return {arm: _panel(arm, of_arm, last, high) for arm, of_arm in curves.items()}


def _smooth_curve(steps: Sequence[Step]) -> list[tuple[float, float]]:
    x = thinned([float(step.step) for step in steps], MAX_PANEL_POINTS)
    y = smoothed(thinned([step.loss for step in steps], MAX_PANEL_POINTS))
    return list(zip(x, y, strict=True))


def _panel(
    arm: str, curves: Sequence[Sequence[tuple[float, float]]], last: float, high: float
) -> Markup:
    drawing = Drawing(260, 190, f"training loss of {arm}", "panel")
    frame = Frame(34, 10, 252, 158, (0, last), (0, high))
    for tick in ticks(0, high, 5):
        drawing.line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid")
        drawing.text(frame.left - 6, frame.y(tick) + 4, f"{tick:g}", "minor", "end")
    drawing.text(frame.left, 176, "0", "minor")
    drawing.text(frame.right, 176, f"step {last:,.0f}", "minor", "end")
    for curve in curves:
        drawing.path([(frame.x(x), frame.y(y)) for x, y in curve], "smooth thin")
    return drawing.markup()


def epoch_chart(
    title: str, points: Sequence[tuple[float, float]], written: Callable[[float], str]
) -> Markup:
    """One figure after each epoch, on a scale of its own that need not start at zero."""
    drawing = Drawing(260, 160, f"{title} over epochs", "panel")
    values = [value for _, value in points if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    frame = Frame(12, 26, 248, 128, (0, max(epoch for epoch, _ in points)), (low, high))
    for value in {low, high}:
        drawing.line(6, frame.y(value), 254, frame.y(value), "grid")
        drawing.text(6, frame.y(value) - 5, written(value), "minor", "start")
    drawing.path([(frame.x(epoch), frame.y(value)) for epoch, value in points], "smooth thin")
    for epoch, value in points if len(points) <= MAX_PANEL_POINTS else ():
        if math.isfinite(value):
            x, y = frame.x(epoch), frame.y(value)
            drawing.dot(x, y, 3, "tuned", f"epoch {epoch:g}: {written(value)}")
    drawing.text(6, 150, "0", "minor", "start")
    drawing.text(254, 150, f"epoch {frame.x_range[1]:g}", "minor", "end")
    return drawing.markup()

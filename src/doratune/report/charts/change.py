"""How far training moved the weights: magnitude and direction."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from doratune.record.schemas import LayerChange
from doratune.report.svg import Drawing, Frame, ticks
from doratune.report.text import small

MAX_DOTS = 1000
"""A scatter of more weight matrices shows every second or third of them, and so on."""


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


class Scatter(NamedTuple):
    """A drawing, and how many of the matrices are in it."""

    chart: Markup
    num_drawn: int
    num_matrices: int


def scatter_chart(
    name: str, changes: Sequence[tuple[float, float]], slope: float | None = None
) -> Scatter:
    """Change of magnitude over change of direction, one dot a weight matrix (paper, Figure 2).

    Args:
        name: What was trained.
        changes: Direction and magnitude change of each weight matrix.
        slope: Of a line through the mean of all dots, magnitude over direction.
    """
    drawing = Drawing(300, 280, f"magnitude over direction change of {name}", "scatter")
    shown = changes[:: max(1, math.ceil(len(changes) / MAX_DOTS))]
    top = [max((pair[i] for pair in changes), default=0) * 1.05 or 1.0 for i in (0, 1)]
    frame = Frame(52, 24, 290, 234, (0, top[0]), (0, top[1]))
    for tick in ticks(0, top[1], 5):
        drawing.line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid")
        drawing.text(frame.left - 6, frame.y(tick) + 4, f"{tick:g}", "minor", "end")
    for tick in ticks(0, top[0], 4):
        drawing.text(frame.x(tick), frame.bottom + 17, f"{tick:g}", "minor")
    drawing.text(frame.right, frame.bottom + 36, "change of direction", "minor", "end")
    drawing.text(0, 12, "change of magnitude", "minor", "start")
    drawing.dots([(frame.x(x), frame.y(y)) for x, y in shown], "cloud")
    if slope is not None and changes:
        drawing.path(_fitted(changes, slope, frame), "fit")
    return Scatter(drawing.markup(), len(shown), len(changes))


def _fitted(
    changes: Sequence[tuple[float, float]], slope: float, frame: Frame
) -> list[tuple[float, float]]:
    """The two ends of the line through the mean, within the range of the dots and the frame."""
    x_mean, y_mean = (fmean(pair[i] for pair in changes) for i in (0, 1))
    ends = [min(pair[0] for pair in changes), max(pair[0] for pair in changes)]
    if slope:
        reach = sorted((limit - y_mean) / slope + x_mean for limit in frame.y_range)
        ends = [max(ends[0], reach[0]), min(ends[1], reach[1])]
    return [(frame.x(x), frame.y(y_mean + slope * (x - x_mean))) for x in ends]

"""The sweep of learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup

from doratune.report.svg import Drawing, Frame
from doratune.report.text import figure
from doratune.report.text import rate as shown_rate


def sweep_charts(
    sweep: Mapping[str, Mapping[float, float]], chosen: Mapping[str, float | None]
) -> dict[str, Markup]:
    """For each arm the validation loss over its learning rates; the scale of the loss is one.

    Args:
        sweep: Validation loss by arm and learning rate.
        chosen: The learning rate of the final runs, by arm.
    """
    finite = [x for losses in sweep.values() for x in losses.values() if math.isfinite(x)]
    y_range = (min(finite, default=0.0), max(finite, default=1.0))
    return {arm: _panel(arm, losses, chosen.get(arm), y_range) for arm, losses in sweep.items()}


def _panel(
    arm: str, losses: Mapping[float, float], chosen: float | None, y_range: tuple[float, float]
) -> Markup:
    drawing = Drawing(260, 180, f"validation loss of {arm} over the learning rate", "panel")
    points = sorted((rate, loss) for rate, loss in losses.items() if math.isfinite(loss))
    rates = [math.log10(rate) for rate, _ in points]
    x_range = (min(rates, default=-4.0), max(rates, default=-3.0))
    frame = Frame(30, 34, 230, 136, x_range, y_range)
    drawing.line(6, frame.bottom + 12, 254, frame.bottom + 12, "axis")
    places = [(frame.x(rate), frame.y(loss)) for rate, (_, loss) in zip(rates, points, strict=True)]
    drawing.path(places, "smooth thin")
    for (rate, loss), (x, y) in zip(points, places, strict=True):
        best = chosen is not None and math.isclose(rate, chosen)
        drawing.dot(x, y, 5 if best else 3.5, "tuned" if best else "base", f"{rate:g}: {loss:g}")
        drawing.text(x, y - 10, figure(loss), "name" if best else "minor")
        drawing.text(x, frame.bottom + 30, shown_rate(rate), "name" if best else "minor")
    return drawing.markup()

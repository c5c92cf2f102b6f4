"""A drawing: plot coordinates in, an inline SVG element out. Looks are the style sheet's affair."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup


class Frame(NamedTuple):
    """A rectangle of the drawing, in pixels, and the values at its edges."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        """Horizontal pixel of a value."""
        low, high = self.x_range
        return self.left + (self.right - self.left) * (value - low) / ((high - low) or 1)

    def y(self, value: float) -> float:
        """Vertical pixel of a value; larger is higher."""
        low, high = self.y_range
        return self.bottom - (self.bottom - self.top) * (value - low) / ((high - low) or 1)


class Drawing:
    """An SVG element that shapes are added to; ``style`` is the name of a CSS class."""

    def __init__(self, width: float, height: float, label: str, style: str = "") -> None:
        self._root = ElementTree.Element(
            "svg",
            {
                "viewBox": f"0 0 {_pixel(width)} {_pixel(height)}",
                "role": "img",
                "aria-label": label,
                "class": f"chart {style}".strip(),
            },
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Adds a straight line."""
        self._add("line", style, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(self, left: float, top: float, right: float, bottom: float, style: str) -> None:
        """Adds a rectangle by its edges."""
        self._add("rect", style, x=left, y=top, width=right - left, height=max(bottom - top, 0))

    def dot(self, x: float, y: float, radius: float, style: str, title: str = "") -> None:
        """Adds a circle, with a text that shows under the pointer."""
        circle = self._add("circle", style, cx=x, cy=y, r=radius)
        if title:
            ElementTree.SubElement(circle, "title").text = title

    def path(self, points: Iterable[tuple[float, float]], style: str) -> None:
        """Adds a line through points; it is broken where one is not finite."""
        commands, pen = [], "M"
        for x, y in points:
            if math.isfinite(x) and math.isfinite(y):
                commands.append(f"{pen}{_pixel(x)} {_pixel(y)}")
                pen = "L"
            else:
                pen = "M"
        if commands:
            ElementTree.SubElement(self._root, "path", {"d": "".join(commands), "class": style})

    def dots(self, points: Iterable[tuple[float, float]], style: str) -> None:
        """Adds many dots as one element: strokes without length, round by the style sheet."""
        strokes = "".join(f"M{_pixel(x)} {_pixel(y)}h0" for x, y in points)
        if strokes:
            ElementTree.SubElement(self._root, "path", {"d": strokes, "class": style})

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> None:
        """Adds a line of text; ``y`` is its base line."""
        element = self._add("text", style, x=x, y=y)
        element.set("text-anchor", anchor)
        element.text = text

    def markup(self) -> Markup:
        """The element, ready for a page."""
        return Markup(ElementTree.tostring(self._root, encoding="unicode"))

    def _add(self, name: str, style: str, **numbers: float) -> ElementTree.Element:
        attributes = {key: _pixel(value) for key, value in numbers.items()}
        if style:
            attributes["class"] = style
        return ElementTree.SubElement(self._root, name, attributes)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` round values in a range, a power of ten times 1, 2 or 5 apart."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(
        power * factor
        for factor in (1, 2, 5, 10, 20)
        if math.floor(high / (power * factor) + 1e-9) - math.ceil(low / (power * factor) - 1e-9)
        < most
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _pixel(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

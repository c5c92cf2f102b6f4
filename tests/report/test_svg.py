from __future__ import annotations

import math

import pytest

from doratune.report.svg import Drawing, Frame, ticks


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 6, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 2.5, 6, [0, 0.5, 1, 1.5, 2, 2.5]),
        (0, 264, 9, [0, 50, 100, 150, 200, 250]),
        (0, 7e-5, 4, [0, 2e-5, 4e-5, 6e-5]),
        (3, 3, 5, [3]),
    ],
)
def test_ticks(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(expected)


@pytest.mark.parametrize("high", [0.013, 0.5, 1, 3.7, 42, 99, 101, 12345])
@pytest.mark.parametrize("most", [2, 4, 6, 9])
def test_ticks_are_never_too_many(high: float, most: int) -> None:
    found = ticks(0, high, most)
    assert 1 <= len(found) <= most
    assert found[-1] <= high


def test_frame_maps_edges_to_pixels() -> None:
    frame = Frame(10, 20, 110, 220, (0, 4), (0, 1))
    assert (frame.x(0), frame.x(4), frame.x(1)) == (10, 110, 35)
    assert (frame.y(0), frame.y(1), frame.y(0.25)) == (220, 20, 170)


def test_path_breaks_at_a_value_that_is_not_finite() -> None:
    drawing = Drawing(10, 10, "x")
    drawing.path([(0, 1), (1, 2), (2, math.nan), (3, 4)], "raw")
    assert 'd="M0 1L1 2M3 4"' in drawing.markup()


def test_many_dots_are_one_element() -> None:
    drawing = Drawing(10, 10, "x")
    drawing.dots([(1, 2), (3.25, 4)], "cloud")
    drawing.dots([], "cloud")
    assert drawing.markup().count("<path") == 1
    assert 'd="M1 2h0M3.2 4h0"' in drawing.markup()

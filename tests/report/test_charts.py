from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from doratune.record.evaluation import CalibrationBin
from doratune.record.schemas import LayerChange
from doratune.report.charts import (
    MAX_POINTS,
    change_charts,
    layers_by_kind,
    loss_chart,
    reliability_chart,
    smoothed,
)
from doratune.report.svg import Drawing, Frame, ticks
from tests.report import sample_run


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


def test_smoothing_is_a_centred_mean_with_shorter_ends() -> None:
    values = [float(i) for i in range(80)]  # a reach of two
    assert smoothed(values)[10] == 10
    assert smoothed(values)[0] == 1
    assert smoothed([5.0]) == [5.0]


def test_reliability_bars_stand_at_the_accuracy_and_lines_at_the_confidence() -> None:
    bins = [
        CalibrationBin(low=0, high=0.5, n=4, confidence=0.4, accuracy=0.25),
        CalibrationBin(low=0.5, high=1, n=0, confidence=None, accuracy=None),
    ]
    root = ElementTree.fromstring(reliability_chart(bins, "tuned"))
    (bar,) = root.findall("rect[@class='bar tuned']")
    (gap,) = root.findall("rect[@class='gap']")
    (claimed,) = root.findall("line[@class='claimed']")
    # The plot is 320 pixels high and its foot at 332.
    assert (float(bar.get("y", "")), float(bar.get("height", ""))) == (252, 80)
    assert float(claimed.get("y1", "")) == 204
    assert (float(gap.get("y", "")), float(gap.get("height", ""))) == (204, 48)
    assert [t.text for t in root.findall("text[@class='minor']")] == ["4"]


def test_loss_curve_of_a_long_run_is_thinned() -> None:
    root = ElementTree.fromstring(loss_chart(sample_run.steps(5000), 0.08, 900))
    (raw,) = root.findall("path[@class='raw']")
    assert MAX_POINTS / 2 < raw.get("d", "").count("L") < MAX_POINTS


def test_loss_chart_of_one_step_and_without_validation() -> None:
    root = ElementTree.fromstring(loss_chart(sample_run.steps(1), None, 380))
    assert not root.findall("circle")


def test_layers_are_grouped_by_kind_and_depth() -> None:
    names = ["model.layers.0.mlp.up_proj", "model.layers.11.mlp.up_proj", "lm_head"]
    layers = [LayerChange(layer=n, magnitude_change=0.1, direction_change=0.2) for n in names]
    kinds = layers_by_kind(layers)
    assert {kind: [depth for depth, _ in rows] for kind, rows in kinds.items()} == {
        "up_proj": [0, 11],
        "lm_head": [0],
    }
    charts = change_charts(layers)
    root = ElementTree.fromstring(charts["up_proj"])
    assert len(root.findall("circle[@class='tuned']")) == 2
    assert len(root.findall("circle[@class='base']")) == 2
    assert root.find("circle/title").text == "model.layers.0.mlp.up_proj: 0.10"  # type: ignore[union-attr]

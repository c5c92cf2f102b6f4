from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from doratune.record.schemas import LayerChange
from doratune.report.charts.change import (
    MAX_DOTS,
    change_charts,
    layers_by_kind,
    scatter_chart,
)


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


def numbers(path: ElementTree.Element) -> list[tuple[float, float]]:
    return [
        (float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path.get("d", ""))
    ]


def test_a_scatter_has_a_dot_for_each_matrix_and_the_line_through_their_mean() -> None:
    pairs = [(0.01, 0.02), (0.02, 0.04), (0.04, 0.03)]
    found = scatter_chart("lora", pairs, slope=0.5)
    root = ElementTree.fromstring(found.chart)
    (cloud,) = root.findall("path[@class='cloud']")
    dots = numbers(cloud)
    assert (found.num_drawn, found.num_matrices, len(dots)) == (3, 3, 3)
    # The plot is 238 by 210 pixels and reaches 1.05 times the largest value.
    assert dots[2] == (round(52 + 238 / 1.05, 1), round(234 - 210 * 0.03 / 0.042, 1))
    (fit,) = root.findall("path[@class='fit']")
    (x1, y1), (x2, y2) = numbers(fit)
    assert (x1, x2) == (dots[0][0], dots[2][0])
    # Half a unit of magnitude for one of direction.
    assert (y1 - y2) / 210 * 0.042 == pytest.approx(0.5 * 0.03, rel=0.01)


def test_a_steep_line_ends_at_the_frame() -> None:
    found = scatter_chart("full", [(0.0, 0.01), (1.0, 0.02)], slope=-9.0)
    (fit,) = ElementTree.fromstring(found.chart).findall("path[@class='fit']")
    assert all(24 <= y <= 234 for _, y in numbers(fit))


def test_a_scatter_of_very_many_matrices_is_thinned_and_says_so() -> None:
    found = scatter_chart("lora", [(i / 2500, i / 2500) for i in range(2500)])
    assert found.num_matrices == 2500
    assert MAX_DOTS / 2 < found.num_drawn <= MAX_DOTS
    assert found.chart.count("h0") == found.num_drawn
    assert len(found.chart) < 30_000


def test_a_scatter_without_matrices_is_empty() -> None:
    assert scatter_chart("lora", [], 1.0).chart.count("h0") == 0

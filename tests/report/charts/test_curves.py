from __future__ import annotations

from xml.etree import ElementTree

from doratune.report.charts.curves import (
    MAX_PANEL_POINTS,
    MAX_POINTS,
    epoch_chart,
    loss_chart,
    panel_charts,
    smoothed,
    thinned,
)
from tests.report import sample_run


def test_smoothing_is_a_centred_mean_with_shorter_ends() -> None:
    values = [float(i) for i in range(80)]  # a reach of two
    assert smoothed(values)[10] == 10
    assert smoothed(values)[0] == 1
    assert smoothed([5.0]) == [5.0]


def test_loss_curve_of_a_long_run_is_thinned() -> None:
    root = ElementTree.fromstring(loss_chart(sample_run.steps(5000), 0.08, 900))
    (raw,) = root.findall("path[@class='raw']")
    assert MAX_POINTS / 2 < raw.get("d", "").count("L") < MAX_POINTS


def test_loss_chart_of_one_step_and_without_validation() -> None:
    root = ElementTree.fromstring(loss_chart(sample_run.steps(1), None, 380))
    assert not root.findall("circle")


def test_thinning_keeps_the_mean() -> None:
    values = [float(i) for i in range(1000)]
    means = thinned(values, 250)
    assert means[:2] == [1.5, 5.5]
    assert len(means) == 250
    assert thinned(values[:7], 250) == values[:7]


def test_panels_have_a_line_a_seed_and_one_scale() -> None:
    long, short = sample_run.steps(3000), sample_run.steps(100, seed=3)
    charts = panel_charts({"LoRA": [long, short], "DoRA": [short]})
    lines = [
        ElementTree.fromstring(charts[arm]).findall("path[@class='smooth thin']")
        for arm in ("LoRA", "DoRA")
    ]
    assert [len(found) for found in lines] == [2, 1]
    assert lines[0][1].get("d") == lines[1][0].get("d")
    assert lines[0][0].get("d", "").count("L") < MAX_PANEL_POINTS
    assert all("step 3,000" in chart for chart in charts.values())


def test_epochs_are_drawn_between_the_least_and_the_largest() -> None:
    chart = epoch_chart("Accuracy", [(1, 0.5), (2, 0.75), (4, 1.0)], lambda x: f"{x:.2f}")
    root = ElementTree.fromstring(chart)
    dots = [(dot.get("cx"), dot.get("cy")) for dot in root.findall("circle")]
    assert dots == [("71", "128"), ("130", "77"), ("248", "26")]
    assert root.find("circle/title").text == "epoch 1: 0.50"  # type: ignore[union-attr]


def test_one_epoch_has_a_drawing() -> None:
    root = ElementTree.fromstring(epoch_chart("ECE", [(1, 0.1)], str))
    assert len(root.findall("circle")) == 1


def test_figures_of_very_many_epochs_have_no_dots() -> None:
    chart = epoch_chart("ECE", [(i + 1, i / 200) for i in range(200)], str)
    assert MAX_POINTS > 200 > MAX_PANEL_POINTS
    assert "circle" not in chart

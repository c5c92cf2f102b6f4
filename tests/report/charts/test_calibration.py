from __future__ import annotations

from xml.etree import ElementTree

from doratune.record.evaluation import CalibrationBin, CoveragePoint
from doratune.report.charts.calibration import coverage_chart, reliability_chart
from tests.report.sample_figures import interval


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


def test_coverage_is_drawn_from_little_to_all_for_each_model() -> None:
    points = [
        CoveragePoint(coverage=share, threshold=0.5, accuracy=interval(value, value - 0.1, 1.0))
        for share, value in ((1.0, 0.75), (0.5, 0.9))
    ]
    root = ElementTree.fromstring(coverage_chart({"base": points[:1], "tuned": points}))
    (line,) = root.findall("path[@class='curve tuned']")
    # The plot goes from 46 to 400 and from 262 up to 12.
    assert line.get("d") == "M223 37L400 74.5"
    assert len(root.findall("circle[@class='base']")) == 1
    assert len(root.findall("line[@class='whisker tuned']")) == 2

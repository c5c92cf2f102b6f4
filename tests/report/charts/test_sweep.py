from __future__ import annotations

from xml.etree import ElementTree

import pytest

from doratune.report.charts.sweep import sweep_charts


def test_rates_lie_on_a_logarithmic_scale_and_the_chosen_one_is_large() -> None:
    charts = sweep_charts(
        {"LoRA": {1e-4: 0.5, 1e-3: 0.3, 1e-2: 0.9}, "DoRA": {1e-3: 0.6, 1e-2: 0.3}}, {"LoRA": 1e-3}
    )
    root = ElementTree.fromstring(charts["LoRA"])
    dots = root.findall("circle")
    assert [float(dot.get("cx", "")) for dot in dots] == pytest.approx([30, 130, 230])
    # The largest loss of all arms is on top, the smallest at the foot.
    assert [dot.get("cy") for dot in dots] == ["102", "136", "34"]
    assert [dot.get("class") for dot in dots] == ["base", "tuned", "base"]
    assert [t.text for t in root.findall("text[@class='name']")] == ["0.300", "1e-03"]
    others = ElementTree.fromstring(charts["DoRA"]).findall("circle")
    assert [(dot.get("cx"), dot.get("cy")) for dot in others] == [("30", "85"), ("230", "136")]


def test_a_single_rate_has_a_drawing() -> None:
    chart = sweep_charts({"LoRA": {2e-4: 0.5}}, {})["LoRA"]
    assert "nan" not in chart
    assert chart.count("<circle") == 1

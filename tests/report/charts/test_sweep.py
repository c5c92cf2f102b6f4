from __future__ import annotations

from xml.etree import ElementTree

import pytest

from doratune.report.charts.sweep import sweep_charts


def test_rates_lie_on_a_logarithmic_scale_and_the_chosen_one_is_large() -> None:
    charts = sweep_charts(
        {"LoRA": {1e-4: 0.5, 1e-3: 0.3, 1e-2: 0.9}, "DoRA": {1e-3: 0.4}}, {"LoRA": 1e-3}
    )
    root = ElementTree.fromstring(charts["LoRA"])
    dots = root.findall("circle")
    x = [float(dot.get("cx", "")) for dot in dots]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    # The largest loss of all arms is on top, the smallest at the foot.
    assert [dot.get("cy") for dot in dots] == ["102", "136", "34"]
    assert [dot.get("class") for dot in dots] == ["base", "tuned", "base"]
    assert [t.text for t in root.findall("text[@class='name']")] == ["0.300", "1e-03"]
    other = ElementTree.fromstring(charts["DoRA"]).find("circle")
    assert other is not None
    assert float(other.get("cx", "")) == x[1]
    assert other.get("cy") == "119"


def test_a_single_rate_has_a_drawing() -> None:
    assert "nan" not in sweep_charts({"LoRA": {2e-4: 0.5}}, {})["LoRA"]

from __future__ import annotations

from xml.etree import ElementTree

from doratune.report.charts.intervals import (
    WIDTHS,
    ForestRow,
    bar_chart,
    dot_chart,
    forest_chart,
)
from tests.report.sample_figures import interval


def test_dots_lie_on_a_scale_from_zero_to_one_unless_they_reach_further() -> None:
    base, tuned = interval(0.25, 0.2, 0.3), interval(0.75, 0.7, 0.8)
    root = ElementTree.fromstring(dot_chart(base, tuned))
    assert [dot.get("cx") for dot in root.findall("circle")] == ["39.5", "110.5"]
    root = ElementTree.fromstring(dot_chart(interval(1, 0, 2), interval(-1, -2, 0)))
    assert [dot.get("cx") for dot in root.findall("circle")] == ["110.5", "39.5"]


def test_bars_start_at_zero() -> None:
    root = ElementTree.fromstring(bar_chart(interval(0.5, 0.4, 0.6), interval(1, 0.9, 1), 1.0))
    bars = root.findall("rect")
    assert [(bar.get("x"), bar.get("width")) for bar in bars] == [("2", "83"), ("2", "166")]
    (whisker, _) = root.findall("line[@class='error']")
    assert (whisker.get("x1"), whisker.get("x2")) == ("68.4", "101.6")


def rows(number: int) -> list[ForestRow]:
    return [
        ForestRow(f"subject {i}", interval(0.01 * i, -0.1, 0.1), f"{i}", "tuned", (0.05, 0.06))
        for i in range(number)
    ]


def test_a_forest_is_drawn_for_wide_and_for_narrow_pages() -> None:
    charts = forest_chart(rows(3), "x", str, zero=0.0, limit=-0.02)
    assert len(charts) == len(WIDTHS)
    for chart, width in zip(charts, WIDTHS, strict=True):
        root = ElementTree.fromstring(chart)
        assert root.get("viewBox", "").split()[2] == str(width)
        assert len(root.findall("line[@class='whisker tuned']")) == 3
        assert len(root.findall("circle[@class='single']")) == 6
        zero, limit = root.find("line[@class='axis']"), root.find("line[@class='mark']")
        assert zero is not None
        assert limit is not None
        dot = root.find("circle[@class='tuned']")
        assert dot is not None
        # The first row's value is zero.
        assert dot.get("cx") == zero.get("x1")
        assert float(limit.get("x1", "")) < float(zero.get("x1", ""))


def test_a_forest_grows_with_its_rows_and_shortens_long_names() -> None:
    name = "a subject whose name is far too long for the room that there is"
    row = rows(1)[0]._replace(label=name)
    wide, _ = forest_chart([row] * 57, "x", str)
    root = ElementTree.fromstring(wide)
    assert float(root.get("viewBox", "").split()[3]) > 57 * 20
    texts = [text.text or "" for text in root.findall("text[@class='name']")]
    assert all(len(text) <= 44 for text in texts)
    assert texts[0].endswith("…")


def test_intervals_without_width_are_drawn() -> None:
    row = ForestRow("x", interval(0.0, 0.0, 0.0), "0")
    assert "nan" not in forest_chart([row], "x", str)[0]

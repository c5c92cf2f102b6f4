from __future__ import annotations

import pytest

from doratune.report.charts.change import scatter_chart
from doratune.report.tables.changes import QUERY, correlation_rows, scatters
from tests.report.sample_comparison import compare_file


def test_correlations_by_kind_and_arm() -> None:
    rows = correlation_rows(compare_file(5))
    assert [kind for kind, _ in rows] == ["all", "q_proj", "up_proj"]
    assert rows[0][1] == [
        ("0.83", "0.72 to 0.92"),
        ("−0.31", "−0.42 to −0.22"),
        ("−0.62", "−0.73 to −0.53"),
    ]
    file = compare_file(5)
    file.correlations = file.correlations[:2]
    assert correlation_rows(file)[1][1][1:] == [("not measured", "")] * 2


def test_matrices_are_averaged_over_seeds_as_their_correlations_are() -> None:
    file = compare_file(5)
    name = "model.layers.0.self_attn.q_proj"
    file.changes = [
        one.model_copy(update={"direction_change": 0.01 * x, "magnitude_change": 0.1 * x})
        for one, x in zip([c for c in file.changes if c.layer == name][:3], (1, 2, 6), strict=True)
    ]
    every, query = scatters(file)
    assert (every.kind, query.kind) == ("all", QUERY)
    ((arm, _, found),) = query.panels
    # Three seeds of one matrix are one dot, at the mean.
    assert (arm, found.num_matrices) == ("LoRA", 1)
    assert found.chart == scatter_chart("LoRA, q_proj", [(0.03, 0.3)], slope=0.83).chart


def test_every_arm_has_a_panel() -> None:
    every, query = scatters(compare_file(5))
    assert [name for name, _, _ in every.panels] == ["LoRA", "DoRA", "Full fine-tuning"]
    # 5 layers of 3 matrices.
    assert every.panels[0][2].num_matrices == 15
    assert query.panels[0][2].num_matrices == 5
    assert every.panels[1][1] == "−0.31 (−0.42 to −0.22)"


def test_without_query_matrices_all_are_shown_once() -> None:
    file = compare_file(5)
    file.correlations = [one for one in file.correlations if one.kind == "all"]
    assert [row.kind for row in scatters(file)] == ["all"]


@pytest.mark.parametrize("changes", [[], None], ids=["none", "no correlation"])
def test_what_is_missing(changes: list[object] | None) -> None:
    fields = {"correlations": []} | ({} if changes is None else {"changes": changes})
    rows = scatters(compare_file(5, **fields))
    if changes is None:
        assert rows[0].panels[0][1] == "not measured"
        assert 'class="fit"' not in rows[0].panels[0][2].chart
    else:
        assert rows == []

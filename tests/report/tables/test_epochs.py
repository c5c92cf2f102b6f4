from __future__ import annotations

from doratune.report.tables.epochs import MAX_ROWS, epochs
from tests.report import sample_figures


def test_every_metric_has_a_panel_and_a_column() -> None:
    found = epochs(sample_figures.epochs())
    assert found is not None
    assert found.titles == [
        "Accuracy",
        "Answer loss, nats per token",
        "Calibration error (ECE, equal width)",
        "Perplexity of texts from elsewhere",
    ]
    assert [title for title, _, _ in found.charts] == found.titles
    assert [better for _, better, _ in found.charts] == ["higher", "lower", "lower", "lower"]
    assert found.rows[0] == ("1", "88", ["54.0\xa0%", "0.560", "0.030", "21.40"])
    assert found.num_examples == 76


def test_a_figure_that_one_epoch_lacks_is_a_dash() -> None:
    lines = sample_figures.epochs()
    del lines[1].metrics["ece"]
    found = epochs(lines)
    assert found is not None
    assert found.rows[1][2][2] == "—"


def test_of_many_epochs_the_last_ones_are_told() -> None:
    found = epochs(sample_figures.epochs(50))
    assert found is not None
    assert found.num_epochs == 50
    assert len(found.rows) == MAX_ROWS
    assert found.rows[-1][0] == "50"


def test_no_epochs() -> None:
    assert epochs([]) is None

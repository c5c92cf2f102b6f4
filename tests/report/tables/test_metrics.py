from __future__ import annotations

from doratune.report.tables.metrics import how_measured, metric_rows
from tests.report.sample_figures import eval_file, open_eval_file


def test_metric_rows_of_labels() -> None:
    rows = {row.key: row for row in metric_rows(eval_file())}
    assert list(rows) == [
        "accuracy",
        "macro_f1",
        "weighted_f1",
        "matthews",
        "answer_nll",
        "perplexity",
        "ece",
        "ece_mass",
        "brier",
        "label_nll",
    ]
    assert rows["accuracy"].difference == (
        "+69.1 points",
        "+60.2 to +77.0, McNemar p\xa0<\xa00.001",
    )
    assert rows["ece"].tuned == ("0.034", "0.021 to 0.071")
    assert rows["ece"].difference == ("−0.278", "−0.354 to −0.196")
    assert rows["ece"].better == "lower"


def test_metric_rows_of_an_open_task() -> None:
    rows = metric_rows(open_eval_file())
    assert [row.key for row in rows] == ["exact_match", "token_f1", "rouge_l", "answer_nll"]
    assert rows[1].difference == ("0.000", "no paired interval")


def test_a_metric_of_one_model_only_has_no_row() -> None:
    file = eval_file()
    del file.base.metrics["matthews"]
    assert "matthews" not in [row.key for row in metric_rows(file)]


def test_methods_are_told_once_with_their_metrics() -> None:
    told = how_measured(eval_file()).replace("\xa0", " ")
    assert told.startswith("Accuracy: Wilson, n = 120. Macro-F1, Weighted F1, Matthews")
    assert "Label loss: bootstrap (1000 draws, seed 0), n = 120." in told
    assert told.endswith("on the same examples: paired bootstrap (1000 draws, seed 0).")

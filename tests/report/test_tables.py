from __future__ import annotations

import pytest

from doratune.record.evaluation import Sample
from doratune.record.run_folder import RunFolder
from doratune.report.records import Evaluation, read_records
from doratune.report.tables import answers, check_rows, class_rows, cost_rows, metric_rows
from tests.report.sample_run import LABELS, eval_file, open_eval_file, train_file, verify_file


def test_metric_rows_of_labels() -> None:
    rows = {row.key: row for row in metric_rows(eval_file())}
    assert list(rows) == ["accuracy", "macro_f1", "ece", "answer_nll"]
    assert rows["accuracy"].difference == (
        "+69.1 points",
        "+60.2 to +77.0, McNemar p\xa0<\xa00.001",
    )
    assert rows["ece"].tuned == ("0.034", "0.021 to 0.071")
    assert rows["ece"].difference == ("−0.278", "no paired test")
    assert rows["ece"].better == "lower"


def test_metric_rows_of_an_open_task() -> None:
    assert [row.key for row in metric_rows(open_eval_file())] == ["exact_match", "answer_nll"]


def test_class_rows_start_with_the_most_frequent() -> None:
    file = eval_file()
    file.base.classes = file.base.classes[:3]
    rows = class_rows(file)
    assert [label for label, _, _ in rows] == LABELS
    assert rows[5][1] is None
    assert rows[5][2] == file.tuned.classes[5]


def test_answers_show_each_outcome(run: RunFolder) -> None:
    found = answers(read_records(run).evaluations[0])
    assert found.tally == {"fixed": 85, "broken": 2, "both wrong": 6, "both right": 27}
    assert [row.outcome for row in found.shown] == ["fixed"] * 4 + ["broken"] * 2 + [
        "both wrong"
    ] * 2
    assert found.shared == "Answer with one of these labels: " + ", ".join(LABELS) + "."
    assert all(row.prompt.endswith("before a claim.") for row in found.shown)
    for row in found.shown:
        assert (row.tuned.text == row.reference) == row.tuned.correct
    # exp(-0.5) against five times exp(-4.5).
    assert found.shown[0].tuned.probability == "92\xa0%"


def test_answers_of_unpaired_samples_and_unknown_examples() -> None:
    row = Sample(id="a", model="base", reference="x", prediction="y", correct=False, answer_nll=1)
    assert answers(Evaluation(eval_file(), [row], {})).shown == []
    pair = [row, row.model_copy(update={"model": "tuned"})]
    (shown,) = answers(Evaluation(eval_file(), pair, {})).shown
    assert (shown.prompt, shown.outcome, shown.base.probability) == ("", "both wrong", "")


def test_checks_against_their_thresholds() -> None:
    rows = {row.key: row for row in check_rows(verify_file(2, mean_kl=0.002, top1_agreement=0.97))}
    assert rows["mean_kl"].passed is False
    assert (rows["top1_agreement"].allowed, rows["top1_agreement"].passed) == (
        "≥ 98.00\xa0%",
        False,
    )
    assert rows["layers.weight_error"].passed is True
    assert rows["max_kl"].passed is None


@pytest.mark.parametrize("key", ["norm_error", "max_norm_error"])
def test_lora_has_no_norm_error(key: str) -> None:
    verify = verify_file(2, thresholds={key: 0.001})
    for layer in verify.layers:
        layer.norm_error = None
    rows = {row.key: row for row in check_rows(verify)}
    assert rows["layers.norm_error"].value == "not measured"
    assert rows["layers.norm_error"].allowed == "≤ 0.0010"
    assert rows["layers.norm_error"].passed is None


def test_cost_names_slow_layers_and_resumes(run: RunFolder) -> None:
    train = train_file(num_layers=2, resumed_from_steps=[50, 100], peft_layers={"Conv2d": 3})
    train.write(run.train)
    rows = {name: value.replace("\xa0", " ") for name, value, _ in cost_rows(read_records(run))}
    assert rows["Training time"] == "3 min 12 s"
    assert rows["Tokens per second"] == "11.1 k"
    assert rows["Trainable parameters"] == "5.0 M (3.62 %)"
    assert rows["Layers on the fast path"] == "14; 3 on PEFT's: Conv2d"
    assert rows["Resumed at steps"] == "50, 100"

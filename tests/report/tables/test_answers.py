from __future__ import annotations

from doratune.record.evaluation import Sample
from doratune.record.run_folder import RunFolder
from doratune.report.records import Evaluation, read_records
from doratune.report.tables.answers import answers
from tests.report.sample_figures import LABELS, eval_file


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
    row = Sample(
        id="a",
        split="test",
        model="base",
        reference="x",
        prediction="y",
        correct=False,
        answer_nll=1,
        num_answer_tokens=1,
    )
    assert answers(Evaluation(eval_file(), [row], {})).shown == []
    pair = [row, row.model_copy(update={"model": "tuned"})]
    (shown,) = answers(Evaluation(eval_file(), pair, {})).shown
    assert (shown.prompt, shown.outcome, shown.base.probability) == ("", "both wrong", "")


def test_answers_of_the_validation_split_are_not_shown(run: RunFolder) -> None:
    evaluation = read_records(run).evaluations[0]
    others = [one.model_copy(update={"split": "validation"}) for one in evaluation.samples]
    both = evaluation._replace(samples=[*evaluation.samples, *others])
    assert answers(both) == answers(evaluation)
    assert answers(evaluation._replace(samples=others)).shown == []

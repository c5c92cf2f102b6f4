from __future__ import annotations

import pytest

from doratune.record.evaluation import EvalFile
from doratune.record.run_folder import RunFolder
from doratune.report.records import read_records
from doratune.report.verdict import Verdict, judge, limits
from tests.report import sample_run
from tests.report.sample_run import difference, eval_file, open_eval_file


def verdict_of(run: RunFolder, file: EvalFile | None = None) -> Verdict:
    if file:
        file.write(run.eval_file(file.task))
    verdict = judge(read_records(run))
    return verdict._replace(details=[text.replace("\xa0", " ") for text in verdict.details])


def test_better(run: RunFolder) -> None:
    verdict = verdict_of(run)
    assert verdict.state == "better"
    assert verdict.headline == "Tuned is better than base on test."
    assert verdict.details == [
        "Accuracy 93.1 % against 24.0 %, +69.1 points (95 % interval +60.2 to +77.0, n = 120, "
        "McNemar p < 0.001).",
        "Merged equals the sidecar within bfloat16 rounding.",
    ]


def test_worse(run: RunFolder) -> None:
    verdict = verdict_of(run, eval_file(difference=difference(-0.12, -0.2, -0.03, 0.004)))
    assert (verdict.state, verdict.headline) == ("worse", "Tuned is worse than base on test.")
    assert "−12.0 points (95 % interval −20.0 to −3.0" in verdict.details[0]


@pytest.mark.parametrize(
    ("low", "high", "p_value"),
    [(-0.04, 0.06, 0.8), (0.001, 0.06, 0.06), (0.0, 0.06, 0.04), (-0.06, -0.001, 0.06)],
    ids=["interval holds zero", "only the interval", "only McNemar", "only the interval, worse"],
)
def test_not_distinguishable_unless_interval_and_test_agree(
    run: RunFolder, low: float, high: float, p_value: float
) -> None:
    verdict = verdict_of(run, eval_file(difference=difference(0.01, low, high, p_value)))
    assert verdict.state == "undecided"
    assert verdict.headline == "Tuned is not distinguishable from base on test."
    half = f"{50 * (high - low):.1f}"
    assert f"With n = 120, a difference below about {half} points could not be seen." in (
        verdict.details
    )


def test_small_split(run: RunFolder) -> None:
    verdict = verdict_of(run, eval_file(num_examples=24))
    assert (
        "The test split is small (n = 24): a difference below about 8.4 points could not be seen."
        in verdict.details
    )


def test_no_better_than_one_answer_for_all(run: RunFolder) -> None:
    file = eval_file()
    assert file.tuned.accuracy
    file.tuned.accuracy.value = 0.2
    assert (
        "Always answering “capped at a fixed amount” would score 20.8 %, no less than the tuned "
        "model." in verdict_of(run, file).details
    )


def test_open_task_speaks_of_exact_match_and_likelihood(run: RunFolder) -> None:
    verdict = verdict_of(run, open_eval_file())
    assert verdict.state == "undecided"
    assert verdict.details[0] == (
        "Exact match 0.0 % against 0.0 %, 0.0 points (95 % interval 0.0 to 0.0, n = 120, McNemar "
        "p = 1.000). The reference answers' negative log-likelihood went from 2.310 "
        "(2.200 to 2.430) to 1.520 (1.440 to 1.610) nats per token."
    )
    assert verdict.details[1].startswith("Both models were right and wrong on the same 120")


def test_failed_check_is_in_the_headline(run: RunFolder) -> None:
    failure = "weight_error is 0.3 at model.layers.1.mlp.up_proj; 0.0039 is allowed."
    sample_run.verify_file(2, passed=False, failures=[failure]).write(run.verify)
    verdict = verdict_of(run)
    assert verdict.alarm
    assert verdict.headline == (
        "Tuned is better than base on test, but the merged model is not the sidecar model: "
        "do not deploy it."
    )
    assert verdict.details[-1] == f"The check of the merged model failed. {failure}"


def test_failed_check_of_a_model_that_is_no_better(run: RunFolder) -> None:
    sample_run.verify_file(2, passed=False).write(run.verify)
    verdict = verdict_of(run, eval_file(difference=difference(0.01, -0.04, 0.06, 0.8)))
    assert verdict.headline == (
        "Tuned is not distinguishable from base on test, and the merged model is not the sidecar "
        "model: do not deploy it."
    )


def test_nothing_measured(run: RunFolder) -> None:
    run.verify.unlink()
    run.eval_file("test").unlink()
    verdict = verdict_of(run)
    assert verdict == Verdict(
        "unknown",
        "Whether tuned is better than base was not measured.",
        False,
        ["Whether the merged model equals the sidecar was not measured."],
    )


def test_the_recipes_task_comes_first_and_others_are_told(run: RunFolder) -> None:
    verdict = verdict_of(run, eval_file(task="another", difference=difference(0, -0.1, 0.1, 1)))
    assert verdict.headline == "Tuned is better than base on test."
    assert "Tuned is not distinguishable from base on another." in verdict.details


def test_limits_depend_on_what_was_done(run: RunFolder) -> None:
    told = " ".join(limits(read_records(run)))
    assert "One seed (0)." in told
    assert "No rank-matched LoRA was trained." in told
    assert "a generator (builtin:clauses)" in told
    assert "2,431 positions of 20 prompts" in told
    sample_run.train_file(num_layers=2, method="lora").write(run.train)
    sample_run.data_file(source="clauses.jsonl").write(run.data)
    open_eval_file().write(run.eval_file("test"))
    told = " ".join(limits(read_records(run)))
    assert "No rank-matched LoRA" not in told
    assert "come from the same source" in told
    assert "Exact match counts any other wording as wrong" in told
    assert "closed set" not in told

from __future__ import annotations

import pytest

from doratune.record.evaluation import EvalFile
from doratune.record.run_folder import RunFolder
from doratune.report.records import read_records
from doratune.report.verdict import Verdict, judge
from tests.report import sample_run
from tests.report.sample_abilities import benchmark, benchmarks_file
from tests.report.sample_figures import difference, eval_file, open_eval_file

ABILITIES = (
    "mmlu: 27.8 % against 28.4 %, −0.6 points (95 % interval −1.2 to 0.0, n = 14,042; a change of 0.9 "
    "points would show). arc_easy: 29.4 % against 28.4 %, +1.0 points (95 % interval +0.4 to +1.6, "
    "n = 400; a change of 0.9 points would show). Perplexity of texts from elsewhere: 1.033 times the "
    "base’s (95 % interval 1.021 to 1.044)."
).replace("’", "'")


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
        ABILITIES,
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
    file.tuned.metrics["accuracy"].value = 0.2
    assert (
        "Always answering “capped at a fixed amount” would score 20.8 %, no less than the tuned "
        "model." in verdict_of(run, file).details
    )


def test_open_task_speaks_of_exact_match_and_likelihood(run: RunFolder) -> None:
    verdict = verdict_of(run, open_eval_file())
    assert verdict.state == "undecided"
    assert verdict.details[0] == (
        "Exact match 0.0 % against 0.0 %, 0.0 points (95 % interval 0.0 to 0.0, n = 120, McNemar "
        "p = 1.000). The loss on the reference answers went from 2.310 "
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
    run.benchmarks.unlink()
    run.eval_file("test").unlink()
    verdict = verdict_of(run)
    assert verdict == Verdict(
        "unknown",
        "Whether tuned is better than base was not measured.",
        False,
        [
            "What became of other abilities was not measured.",
            "Whether the merged model equals the sidecar was not measured.",
        ],
    )


def test_the_recipes_task_comes_first_and_others_are_told(run: RunFolder) -> None:
    verdict = verdict_of(run, eval_file(task="another", difference=difference(0, -0.1, 0.1, 1)))
    assert verdict.headline == "Tuned is better than base on test."
    assert "Tuned is not distinguishable from base on another." in verdict.details


def test_a_lost_benchmark_turns_the_verdict(run: RunFolder) -> None:
    benchmarks_file(benchmark(drop=0.034), benchmark("arc_easy", 0.001)).write(run.benchmarks)
    verdict = verdict_of(run)
    assert verdict.state == "better"
    assert verdict.alarm
    assert verdict.headline == (
        "Tuned does not pass: it lost 3.4 points on mmlu, where 2 are allowed, though it is better "
        "than base on test."
    )


def test_two_lost_benchmarks_of_a_model_that_is_no_better(run: RunFolder) -> None:
    benchmarks_file(benchmark(drop=0.034), benchmark("arc_easy", 0.05)).write(run.benchmarks)
    sample_run.verify_file(2, passed=False).write(run.verify)
    verdict = verdict_of(run, eval_file(difference=difference(0.01, -0.04, 0.06, 0.8)))
    assert verdict.headline == (
        "Tuned does not pass: it lost 3.4 points on mmlu and 5.0 points on arc_easy, where 2 are "
        "allowed, and it is not distinguishable from base on test, and the merged model is not the "
        "sidecar model: do not deploy it."
    )


def test_a_lost_benchmark_counts_without_an_evaluation(run: RunFolder) -> None:
    benchmarks_file(benchmark(drop=0.034)).write(run.benchmarks)
    run.eval_file("test").unlink()
    assert verdict_of(run).headline == (
        "Tuned does not pass: it lost 3.4 points on mmlu, where 2 are allowed, and whether it is "
        "better than base was not measured."
    )


def test_lower_is_better_where_the_metric_says_so(run: RunFolder) -> None:
    file = eval_file(primary="answer_nll")
    verdict = verdict_of(run, file)
    assert verdict.headline == "Tuned is better than base on test."
    assert verdict.details[0] == (
        "Answer loss, nats per token 0.062 against 1.874, −1.812 (95 % interval −1.912 to −1.704, "
        "n = 120)."
    )
    file.differences["answer_nll"] = difference(0.2, 0.1, 0.3, None)
    assert verdict_of(run, file).state == "worse"


def test_a_task_without_a_paired_difference_was_not_measured(run: RunFolder) -> None:
    verdict = verdict_of(run, eval_file(differences={}))
    assert verdict.headline == "Whether tuned is better than base on test was not measured."
    assert verdict.details[0] == "Accuracy was not measured."


def test_an_interval_without_a_width_is_not_shown_as_one(run: RunFolder) -> None:
    one = benchmark()
    none = one.difference.model_copy(update={"value": 0.0, "low": 0.0, "high": 0.0})
    benchmarks_file(one.model_copy(update={"difference": none})).write(run.benchmarks)
    details = " ".join(judge(read_records(run)).details)
    assert "0.0 points (right and wrong on the same questions, so without an interval" in details
    assert "0.0 to 0.0" not in details

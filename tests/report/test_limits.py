from __future__ import annotations

from doratune.record.run_folder import RunFolder
from doratune.report.limits import comparison_limits, limits
from doratune.report.records import read_records
from tests.report import sample_run
from tests.report.sample_abilities import benchmark, benchmarks_file
from tests.report.sample_comparison import compare_file
from tests.report.sample_figures import open_eval_file


def told(run: RunFolder) -> str:
    return " ".join(limits(read_records(run)))


def test_limits_depend_on_what_was_done(run: RunFolder) -> None:
    assert "One seed (0)." in told(run)
    assert "No rank-matched LoRA was trained." in told(run)
    assert "a generator (builtin:clauses)" in told(run)
    assert "2,431 positions of 20 prompts" in told(run)
    sample_run.train_file(num_layers=2, method="lora").write(run.train)
    sample_run.data_file(source="clauses.jsonl").write(run.data)
    open_eval_file().write(run.eval_file("test"))
    assert "No rank-matched LoRA" not in told(run)
    assert "come from the same source" in told(run)
    assert "Exact match counts any other wording as wrong" in told(run)
    assert "closed set" not in told(run)


def test_what_is_measured_is_no_limit(run: RunFolder) -> None:
    assert "were not measured" not in told(run)
    assert "mmlu and arc_easy alone" in told(run)
    assert "Of arc_easy only some questions were asked." in told(run)
    assert "Latency was measured on Intel(R) Xeon(R) Platinum 8481C" in told(run)
    assert "judge-8b is a language model, not a person" in told(run)
    assert "What was exported as lora and quantized is another model" in told(run)
    benchmarks_file(benchmark()).write(run.benchmarks)
    assert "only some questions" not in told(run)


def test_what_is_not_measured_is_one(run: RunFolder) -> None:
    run.benchmarks.unlink()
    run.latency.unlink()
    run.exported.unlink()
    (run.completions / "judge.json").unlink()
    assert "General abilities, by MMLU for instance, were not measured." in told(run)
    assert "Latency" not in told(run)
    assert "not a person" not in told(run)
    assert "exported" not in told(run)


def test_a_comparison_with_lora_lifts_the_limit(run: RunFolder) -> None:
    file = compare_file(2)
    file.write(run.compare)
    assert "No rank-matched LoRA" not in told(run)
    file.arms = [arm for arm in file.arms if arm.arm != "lora"]
    file.write(run.compare)
    assert "No rank-matched LoRA" in told(run)


def test_limits_of_a_comparison(run: RunFolder) -> None:
    file = compare_file(2)
    sentences = " ".join(comparison_limits(read_records(run), file))
    assert "One base model and one task, with n\xa0=\xa0120 test examples." in sentences
    assert "does not mean equal" in sentences
    assert "a generator (builtin:clauses)" in sentences
    file.pairs = file.pairs[1:]
    assert "does not mean equal" not in " ".join(comparison_limits(read_records(run), file))

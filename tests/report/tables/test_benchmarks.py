from __future__ import annotations

import re

from doratune.report.tables.benchmarks import benchmarks
from tests.report.sample_abilities import benchmark, benchmarks_file


def test_rows_say_what_was_asked_and_what_would_show() -> None:
    found = benchmarks(benchmarks_file())
    mmlu, arc = found.rows
    assert mmlu.about == "acc, 5 worked examples, 14,042 questions; 1.0 of lm-eval 0.4.12"
    assert "no worked example, 400 of 2,376 questions" in arc.about
    assert mmlu.difference == ("−0.6 points", "−1.2 to 0.0, McNemar p\xa0=\xa00.051")
    assert mmlu.detectable == "0.9 points"
    assert mmlu.tuned == ("27.8\xa0%", "27.1 to 28.6")
    assert mmlu.passed
    assert found.allowed == "2 points"


def test_subjects_are_sorted_by_their_loss() -> None:
    file = benchmarks_file(benchmark())
    (forest,) = benchmarks(file).forests
    assert (forest.benchmark, forest.num_subjects) == ("mmlu", 57)
    written = re.findall(r'text-anchor="end">([−+]?[\d.]+) \(', forest.charts[0])
    values = [float(text.replace("−", "-")) for text in written]
    assert len(values) == 57
    assert values == sorted(values)
    worst = min(file.benchmarks[0].subjects, key=lambda one: one.difference.value)
    assert worst.subject.replace("_", " ") in forest.charts[0]
    assert values[0] == round(100 * worst.difference.value, 1)


def test_a_benchmark_without_subjects_has_no_forest() -> None:
    assert benchmarks(benchmarks_file(benchmark("arc_easy"))).forests == []


def test_texts_from_elsewhere() -> None:
    found = benchmarks(benchmarks_file())
    assert found.out_of_domain[0][1] == "200 of wikitext.jsonl, 51.2\xa0k tokens"
    assert found.out_of_domain[3] == ("Tuned over base", "1.033 (1.021 to 1.044)", "ratio")
    assert benchmarks(benchmarks_file(out_of_domain=None)).out_of_domain == []


def test_texts_alone() -> None:
    found = benchmarks(benchmarks_file().model_copy(update={"benchmarks": []}))
    assert (found.rows, found.overview, found.forests) == ([], [], [])


def test_a_mean_over_subjects_is_said() -> None:
    file = benchmarks_file(benchmark("commonsense", average="subjects"))
    assert "14,042 questions, mean over subjects;" in benchmarks(file).rows[0].about

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doratune.errors import DataError
from doratune.evaluate.benchmarks.questions import Question, allot, ask_for, judged, num_available
from doratune.evaluate.benchmarks.tasks import Benchmark, load_benchmarks
from doratune.recipe.evaluation import BenchmarksSection
from tests.evaluate.benchmarks.exams import write_commonsense, write_mmlu


@pytest.fixture
def mmlu(tmp_path: Path) -> Benchmark:
    data = str(write_mmlu(tmp_path / "data"))
    (benchmark,) = load_benchmarks(BenchmarksSection(tasks=["mmlu"], data=data))
    return benchmark


def key(question: Question) -> tuple[str, int]:
    return question.subject, question.number


SUBJECTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 200), min_size=1)


@given(sizes=SUBJECTS, most=st.integers(1, 300), even=st.booleans())
@settings(deadline=None, derandomize=True)
def test_a_subset_is_spread_over_the_subjects(sizes: dict[str, int], most: int, even: bool) -> None:
    shares = allot(sizes, most, even=even)
    total = sum(sizes.values())
    assert sum(shares.values()) == min(most, total)
    assert all(0 <= shares[subject] <= size for subject, size in sizes.items())
    if even:
        short = [shares[s] for s, size in sizes.items() if shares[s] < size]
        assert not short or max(shares.values()) - min(short) <= 1
    elif most < total:
        for subject, size in sizes.items():
            # Webster's method may miss an exact share by more than one question, hardly by three.
            assert abs(shares[subject] - most * size / total) < 3
    more = allot(sizes, most + 1, even=even)
    assert all(shares[subject] <= more[subject] for subject in sizes)


def test_mmlu_in_570_questions_asks_every_subject() -> None:
    sizes = {f"subject {n}": size for n, size in enumerate([1534, 895, *[226] * 40, *[100] * 15])}
    shares = allot(sizes, 570, even=False)
    assert min(shares.values()) >= 4
    assert shares["subject 0"] == pytest.approx(570 * 1534 / sum(sizes.values()), abs=2)


def test_the_same_seed_asks_the_same_and_more_questions_ask_these_too(mmlu: Benchmark) -> None:
    few = {key(q) for q in ask_for(mmlu, 5, 0)}
    assert few == {key(q) for q in ask_for(mmlu, 5, 0)}
    assert few < {key(q) for q in ask_for(mmlu, 9, 0)}
    assert any(few != {key(q) for q in ask_for(mmlu, 5, seed)} for seed in (1, 2, 3))
    assert {subject for subject, _ in few} == {"anatomy", "astronomy", "virology"}
    assert num_available(mmlu) == 13


def test_a_digest_tells_what_was_asked(mmlu: Benchmark) -> None:
    first = ask_for(mmlu, None, 0)
    assert len({question.digest for question in first}) == 13
    again = {key(q): q.digest for q in ask_for(mmlu, 5, 0)}
    assert all(again[key(q)] == q.digest for q in first if key(q) in again)
    for task in mmlu.subjects.values():
        task.set_config("num_fewshot", 1)
    assert not {q.digest for q in ask_for(mmlu, None, 0)} & {q.digest for q in first}


def test_choices_are_judged(mmlu: Benchmark) -> None:
    question = ask_for(mmlu, None, 0)[0]
    for choice in range(4):
        responses = [(-1.0 if at == choice else -2.0, False) for at in range(4)]
        sample = judged(mmlu, question, responses, "tuned")
        assert sample.choice == choice
        assert sample.correct == (choice == question.doc["answer"])
        assert sample.logprobs == [logprob for logprob, _ in responses]
        assert (sample.model, sample.response) == ("tuned", None)


def test_the_length_of_a_choice_counts_where_the_metric_says_so(mmlu: Benchmark) -> None:
    question = ask_for(mmlu, None, 0)[0]
    task = mmlu.subjects[question.subject]
    task.config.doc_to_choice = ["A", "B" * 9, "C", "D"]
    task._metric_fn_list["acc_norm"] = None
    normed = mmlu._replace(metric="acc_norm")
    responses = [(-1.0, False), (-2.0, False), (-3.0, False), (-4.0, False)]
    assert judged(mmlu, question, responses, "base").choice == 0
    sample = judged(normed, question, responses, "base")
    assert sample.choice == 1
    assert sample.correct == (question.doc["answer"] == 1)


def test_generated_answers_are_kept(tmp_path: Path) -> None:
    data = str(write_commonsense(tmp_path / "data"))
    (piqa,) = load_benchmarks(BenchmarksSection(tasks=["commonsense_piqa"], data=data))
    question = ask_for(piqa, None, 0)[1]
    sample = judged(piqa, question, ["it is solution2"], "base")
    assert (sample.correct, sample.response) == (True, "it is solution2")
    assert (sample.choice, sample.logprobs) == (None, [])


def test_a_figure_that_is_neither_right_nor_wrong_is_refused(tmp_path: Path) -> None:
    data = str(write_commonsense(tmp_path / "data"))
    (piqa,) = load_benchmarks(BenchmarksSection(tasks=["commonsense_piqa"], data=data))
    question = ask_for(piqa, None, 0)[0]
    piqa.subjects["piqa"].config.process_results = lambda doc, results: {"acc": 0.5}
    with pytest.raises(DataError, match=r"'commonsense_piqa' gives acc 0.5 to question 0"):
        judged(piqa, question, ["x"], "base")

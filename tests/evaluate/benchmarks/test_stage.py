from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from peft import PeftModel

from doratune.base import load_base, load_tokenizer
from doratune.errors import ConfigError
from doratune.evaluate.benchmarks import evaluate_benchmarks, stage
from doratune.evaluate.benchmarks.language_model import BatchedLM
from doratune.evaluate.benchmarks.tasks import load_benchmarks
from doratune.recipe.schema import Recipe
from doratune.record.benchmarks import BenchmarkSample, BenchmarksFile, TextSample
from doratune.record.files import read_jsonl
from doratune.record.run_folder import RunFolder
from tests.base.test_likelihood import plain_logprob
from tests.evaluate.benchmarks.exams import write_commonsense, write_lines, write_mmlu
from tests.evaluate.small_run import small_recipe, small_run

TASKS = ["mmlu", "commonsense_ARC-Easy", "commonsense_likelihood"]
# Prompts of five worked examples are longer than the tiny model's context: the first are cut off.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    write_mmlu(path)
    write_lines(
        path / "texts.jsonl", [{"text": f"The quick brown fox {n}. " * n} for n in (1, 9, 60)]
    )
    return write_commonsense(path)


@pytest.fixture
def run(tmp_path: Path, tiny_base: Path) -> RunFolder:
    return small_run(tmp_path / "run", tiny_base)


def recipe(base: Path, data: Path, *tasks: str, **settings: object) -> Recipe:
    return small_recipe(base, benchmarks={"tasks": list(tasks), "data": str(data), **settings})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests went to a model, call by call."""
    calls: list[int] = []
    for name in ("loglikelihood", "generate_until"):
        real = getattr(BatchedLM, name)

        def counting(self: BatchedLM, requests: list[object], real: object = real) -> object:
            calls.append(len(requests))
            return real(self, requests)  # type: ignore[operator]

        monkeypatch.setattr(BatchedLM, name, counting)
    return calls


def test_both_models_score_what_lm_eval_says(run: RunFolder, tiny_base: Path, data: Path) -> None:
    settings = recipe(tiny_base, data, *TASKS)
    assert evaluate_benchmarks(run, settings)
    file = BenchmarksFile.read(run.benchmarks)
    assert [one.benchmark for one in file.benchmarks] == TASKS

    tokenizer = load_tokenizer(tiny_base)
    models = {
        "base": load_base(tiny_base),
        "tuned": PeftModel.from_pretrained(load_base(tiny_base), run.adapter).eval(),
    }
    loaded = {b.name: b for b in load_benchmarks(settings.eval.benchmarks)}
    for name, model in models.items():
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
        for one in file.benchmarks:
            tasks = loaded[one.benchmark].subjects
            results = evaluate(theirs, {"tasks": tasks}, bootstrap_iters=0)["results"]
            scores = {subject: results[subject]["acc,none"] for subject in tasks}
            if one.average == "subjects":
                expected = np.mean(list(scores.values()))
            else:
                sizes = [len(tasks[subject].eval_docs) for subject in scores]
                expected = np.average(list(scores.values()), weights=sizes)
            assert getattr(one, name).value == pytest.approx(expected)
            for row in one.subjects:
                assert getattr(row, name) == pytest.approx(scores[row.subject])
    assert [len(one.subjects) for one in file.benchmarks] == [3, 0, 8]


def test_the_file_can_be_made_of_the_samples(run: RunFolder, tiny_base: Path, data: Path) -> None:
    evaluate_benchmarks(run, recipe(tiny_base, data, *TASKS))
    file = BenchmarksFile.read(run.benchmarks)
    samples = [BenchmarkSample.model_validate(row) for row in read_jsonl(run.benchmark_samples)]
    assert len(samples) == 2 * (13 + 3 + 24)
    for one in file.benchmarks:
        own = [s for s in samples if s.benchmark == one.benchmark]
        right = {(model, s.subject, s.question): s.correct for s in own for model in [s.model]}
        gained = lost = 0
        for (model, subject, number), correct in right.items():
            if model == "base":
                tuned = right["tuned", subject, number]
                gained += tuned and not correct
                lost += correct and not tuned
        assert one.num_questions == len(own) / 2
        if one.average == "questions":
            assert one.difference.value == pytest.approx((gained - lost) / one.num_questions)
    scored = [s for s in samples if s.benchmark == "mmlu"]
    assert all(len(s.logprobs) == 4 and s.choice == np.argmax(s.logprobs) for s in scored)
    generated = [s for s in samples if s.benchmark == "commonsense_ARC-Easy"]
    assert all(s.response is not None for s in generated)


def test_texts_from_elsewhere(run: RunFolder, tiny_base: Path, data: Path) -> None:
    settings = recipe(tiny_base, data, texts=str(data / "texts.jsonl"))
    assert evaluate_benchmarks(run, settings)
    found = BenchmarksFile.read(run.benchmarks).out_of_domain
    assert found is not None
    tokenizer = load_tokenizer(tiny_base)
    models = {
        "base": load_base(tiny_base),
        "tuned": PeftModel.from_pretrained(load_base(tiny_base), run.adapter).eval(),
    }
    kept = TextSample.read_lines(run.benchmark_texts)
    for name, model in models.items():
        total = count = 0.0
        for row in read_jsonl(data / "texts.jsonl")[:2]:  # the third is longer than the context
            ids = tokenizer(row["text"]).input_ids
            assert len(ids) < 512
            logprob = plain_logprob(model, [tokenizer.eos_token_id], ids)
            (sample,) = (s for s in kept if s.model == name and s.num_tokens == len(ids))
            assert sample.logprob == pytest.approx(logprob, rel=1e-5)
            total, count = total + logprob, count + len(ids)
        long = max((s for s in kept if s.model == name), key=lambda s: s.num_tokens)
        assert long.num_tokens > 512
        expected = math.exp(-(total + long.logprob) / (count + long.num_tokens))
        assert getattr(found, name).value == pytest.approx(expected, rel=1e-5)
    assert found.num_texts == 3


def test_up_to_date_and_then_only_what_is_new(
    run: RunFolder, tiny_base: Path, data: Path, asked: list[int]
) -> None:
    first = recipe(tiny_base, data, "mmlu", max_questions=6)
    assert evaluate_benchmarks(run, first)
    assert sum(asked) == 2 * 6 * 4
    assert not evaluate_benchmarks(run, first)
    assert sum(asked) == 2 * 6 * 4

    asked.clear()  # more questions: those that were asked already are not asked again
    assert evaluate_benchmarks(run, recipe(tiny_base, data, "mmlu", max_questions=10))
    assert sum(asked) == 2 * 4 * 4

    asked.clear()  # another threshold
    settings = recipe(tiny_base, data, "mmlu", max_questions=10, max_drop_points=100.0)
    assert evaluate_benchmarks(run, settings)
    assert asked == []
    assert BenchmarksFile.read(run.benchmarks).passed

    # Another adapter: the base is what it was.
    (run.adapter / "more.txt").write_text("x")
    assert evaluate_benchmarks(run, settings)
    assert sum(asked) == 10 * 4


def test_an_interrupted_run_goes_on(
    run: RunFolder, tiny_base: Path, data: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    whole = RunFolder(run.path.parent / "whole")
    small_run(whole.path, tiny_base)
    settings = recipe(tiny_base, data, "mmlu", texts=str(data / "texts.jsonl"))
    evaluate_benchmarks(whole, settings)
    asked.clear()

    monkeypatch.setattr(stage, "_QUESTIONS_AT_ONCE", 3)
    counting = BatchedLM.loglikelihood

    def dying(self: BatchedLM, requests: list[object]) -> object:
        if len(asked) == 8:  # in the middle of the second model's questions
            raise KeyboardInterrupt
        return counting(self, requests)  # type: ignore[arg-type]

    monkeypatch.setattr(BatchedLM, "loglikelihood", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate_benchmarks(run, settings)
    assert not run.benchmarks.exists()
    before = len(run.benchmark_samples.read_text().splitlines())
    assert 13 < before < 26
    with run.benchmark_samples.open("a") as file:
        file.write('{"benchmark": "mm')  # the kill cut a line short
    monkeypatch.setattr(BatchedLM, "loglikelihood", counting)
    asked.clear()
    assert evaluate_benchmarks(run, settings)
    assert sum(asked) == (26 - before) * 4
    assert _figures(run) == _figures(whole)
    keys = [
        [(s.model, s.subject, s.question, s.correct) for s in _samples(r)] for r in (run, whole)
    ]
    assert keys[0] == keys[1]


def test_samples_of_another_form_are_asked_again(
    run: RunFolder, tiny_base: Path, data: Path, asked: list[int]
) -> None:
    settings = recipe(tiny_base, data, "mmlu_virology")
    evaluate_benchmarks(run, settings)
    run.benchmark_samples.write_text('{"what": "is this"}\n')
    asked.clear()
    assert evaluate_benchmarks(run, settings)
    assert sum(asked) == 2 * 2 * 4


def test_it_says_what_it_will_do_and_what_came_of_it(
    run: RunFolder, tiny_base: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = str(data / "texts.jsonl")
    evaluate_benchmarks(run, recipe(tiny_base, data, "mmlu", max_questions=6, texts=texts))
    said = " ".join(capsys.readouterr().err.split())
    assert "mmlu: 6 of 13 questions in 3 subjects, 5-shot, about " in said
    assert "too few questions to see a drop of 2" in said
    assert "Perplexity of 3 texts from elsewhere" in said
    assert "mmlu: base " in said
    assert "points" in said


def test_a_drop_turns_the_verdict(run: RunFolder, tiny_base: Path, data: Path) -> None:
    settings = recipe(tiny_base, data, "mmlu", max_drop_points=0.0)
    evaluate_benchmarks(run, settings)
    file = BenchmarksFile.read(run.benchmarks)
    lost = file.benchmarks[0].difference.value < 0
    assert file.passed is (not lost)


def test_nothing_to_measure_is_an_error(run: RunFolder, tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match=r"names no eval.benchmarks.tasks and no eval.benchmarks"):
        evaluate_benchmarks(run, small_recipe(tiny_base))


def _figures(run: RunFolder) -> dict[str, object]:
    return BenchmarksFile.read(run.benchmarks).model_dump(exclude={"seconds"})


def _samples(run: RunFolder) -> list[BenchmarkSample]:
    return BenchmarkSample.read_lines(run.benchmark_samples)


def test_the_random_models_are_not_equal(run: RunFolder, tiny_base: Path) -> None:
    """Otherwise the tests above would not tell base and tuned apart."""
    ids = torch.tensor([[3, 4, 5]])
    base = load_base(tiny_base)(ids).logits
    tuned = PeftModel.from_pretrained(load_base(tiny_base), run.adapter)(ids).logits
    assert (base - tuned).abs().max() > 0.1

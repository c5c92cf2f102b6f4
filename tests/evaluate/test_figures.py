"""Figures from samples alone, against other libraries on the same predictions."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    matthews_corrcoef,
)

from doratune.errors import StorageError
from doratune.evaluate.figures import LIMITS, make_figures, measure
from doratune.evaluate.metrics.texts import token_f1
from doratune.recipe.evaluation import EvalSection
from doratune.record.evaluation import METRICS, MODELS, AnswersFile, EvalFile, Model, Sample
from doratune.record.schemas import Split
from tests.evaluate.metrics.guesses import Floats, Ints, likelihoods

LABELS = ["capped", "excluded", "mutual", "none", "uncapped"]
SETTINGS = EvalSection()


def asked(labels: list[str] | None, n: int, validation: int = 0) -> AnswersFile:
    return AnswersFile(
        task="test",
        kind="generation" if labels is None else "labels",
        labels=labels,
        template="model",
        max_new_tokens=None if labels else 64,
        num_questions={"test": n, "validation": validation},
        dtype=dict.fromkeys(MODELS, "float32"),
        device=dict.fromkeys(MODELS, "cpu"),
        seconds={"base": 3.0, "tuned": 4.0},
    )


def label_samples(
    model: Model, logprobs: Floats, truth: Ints, split: Split = "test", **more: Any
) -> list[Sample]:
    return [
        Sample(
            id=f"{split}-{i}",
            split=split,
            model=model,
            reference=LABELS[right],
            prediction=LABELS[int(row.argmax())],
            correct=bool(row.argmax() == right),
            answer_nll=-row[right] / 4,
            num_answer_tokens=4,
            label_logprobs=dict(zip(LABELS, row.tolist(), strict=True)),
            **{name: values[i] for name, values in more.items()},
        )
        for i, (row, right) in enumerate(zip(logprobs, truth, strict=True))
    ]


def two_models(n: int = 300, validation: int = 200) -> tuple[list[Sample], dict[str, Floats], Ints]:
    """A base that knows a little and is far too sure, and a tuned model that draws honestly."""
    logprobs, truth = likelihoods(n + validation)
    noise = np.random.default_rng(1).normal(0, 1.5, logprobs.shape)
    by_model = {"base": 2 * (logprobs + noise), "tuned": logprobs}
    samples = []
    for model in MODELS:
        rows = by_model[model]
        samples += label_samples(model, rows[:n], truth[:n])
        samples += label_samples(model, rows[n:], truth[n:], "validation")
    return samples, {name: rows[:n] for name, rows in by_model.items()}, truth[:n]


def test_label_figures_are_those_of_scikit_learn() -> None:
    samples, by_model, truth = two_models()
    file = make_figures(asked(LABELS, 300), samples, SETTINGS, seed=0)
    assert (file.kind, file.primary, file.num_examples) == ("labels", "accuracy", 300)
    for model in MODELS:
        figures = file.figures(model)
        chances, guess = softmax(by_model[model], axis=1), by_model[model].argmax(1)
        nll = -by_model[model][np.arange(300), truth] / 4
        expected = {
            "accuracy": accuracy_score(truth, guess),
            "macro_f1": f1_score(truth, guess, average="macro"),
            "weighted_f1": f1_score(truth, guess, average="weighted"),
            "matthews": matthews_corrcoef(truth, guess),
            "answer_nll": nll.mean(),
            "perplexity": np.exp(nll.mean()),  # all answers have four tokens
            "brier": brier_score_loss(truth, chances, labels=range(5), scale_by_half=False),
            "label_nll": log_loss(truth, chances, labels=range(5)),
        }
        found = {name: interval.value for name, interval in figures.metrics.items()}
        assert found == pytest.approx({**found, **expected})
        assert found.keys() - expected.keys() == {"ece", "ece_mass"}
        assert figures.confusion == confusion_matrix(truth, guess).tolist()
        assert [row.label for row in figures.classes] == LABELS
        for name, interval in figures.metrics.items():
            assert interval.low < interval.value < interval.high, name
            assert interval.n == 300
    assert (file.base.seconds, file.tuned.seconds) == (3, 4)


@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "open"])
def test_metrics_without_intervals_are_the_measured_ones(labels: list[str] | None) -> None:
    samples, _, _ = two_models(60, validation=0)
    file = make_figures(asked(labels, 60), samples, SETTINGS, seed=3)
    for model in MODELS:
        own = [sample for sample in samples if sample.model == model]
        measured = {name: figure.value for name, figure in file.figures(model).metrics.items()}
        found = measure(own, labels, SETTINGS)
        assert list(found) == list(measured)
        assert found == pytest.approx(measured, rel=1e-12)


def test_every_metric_of_both_has_a_paired_difference() -> None:
    samples, _, _ = two_models()
    file = make_figures(asked(LABELS, 300), samples, SETTINGS, seed=0)
    assert file.differences.keys() == file.base.metrics.keys() == file.tuned.metrics.keys()
    assert list(file.differences) == [name for name in METRICS if name in file.differences]
    for name, difference in file.differences.items():
        change = file.tuned.metrics[name].value - file.base.metrics[name].value
        assert difference.value.value == pytest.approx(change)
        assert difference.value.low < change < difference.value.high
        assert (difference.p_value is not None) == (name == "accuracy")
    same = [s.model_copy(update={"model": m}) for m in MODELS for s in samples if s.model == "base"]
    for name, none in make_figures(asked(LABELS, 300), same, SETTINGS, 0).differences.items():
        assert (none.value.value, none.value.low, none.value.high) == (0, 0, 0), name


def test_the_temperature_is_fitted_on_the_validation_split() -> None:
    samples, by_model, truth = two_models(validation=2000)
    file = make_figures(asked(LABELS, 300), samples, SETTINGS, seed=0)
    base, tuned = file.base.calibration, file.tuned.calibration
    assert base is not None
    assert tuned is not None
    assert tuned.temperature == pytest.approx(1, rel=0.1)
    assert base.temperature is not None
    assert base.temperature > 2
    assert (base.num_validation, base.temperature_note) == (2000, "")
    chances = softmax(by_model["base"] / base.temperature, axis=1)
    assert base.scaled["label_nll"].value == pytest.approx(log_loss(truth, chances))
    assert base.scaled["label_nll"].value < file.base.metrics["label_nll"].value / 2
    assert base.scaled["ece"].value < file.base.metrics["ece"].value / 2
    assert base.scaled.keys() == {"ece", "ece_mass", "brier", "label_nll"}
    assert sum(b.n for b in base.scaled_bins) == sum(b.n for b in base.bins) == 300
    assert [point.coverage for point in base.coverage] == SETTINGS.coverages


def test_without_a_validation_split_there_is_no_temperature() -> None:
    samples, _, _ = two_models(validation=0)
    calibration = make_figures(asked(LABELS, 300), samples, SETTINGS, seed=0).base.calibration
    assert calibration is not None
    assert (calibration.temperature, calibration.scaled, calibration.scaled_bins) == (None, {}, [])
    assert calibration.temperature_note == "there are no validation examples to fit it on"


def test_strata_are_parts_of_the_whole() -> None:
    logprobs, truth = likelihoods(200)
    difficulty = ["hard" if i % 4 == 0 else "easy" for i in range(200)]
    samples = label_samples("base", np.flip(logprobs, 1), truth, difficulty=difficulty)
    samples += label_samples("tuned", logprobs, truth, difficulty=difficulty)
    file = make_figures(asked(LABELS, 200), samples, SETTINGS, seed=0)
    for by, names in {"label": LABELS, "difficulty": ["easy", "hard"]}.items():
        rows = [row for row in file.strata if row.by == by]
        assert [row.name for row in rows] == names
        for model in MODELS:
            parts = [getattr(row, model) for row in rows]
            assert sum(part.n for part in parts) == 200
            total = sum(part.value * part.n for part in parts) / 200
            assert total == pytest.approx(file.figures(model).metrics["accuracy"].value)
    for row in file.strata:
        assert row.difference.value == pytest.approx(row.tuned.value - row.base.value)
    margins = [row for row in file.strata if row.by == "base margin"]
    assert [row.base.n for row in margins] == [50] * 4
    # The margin is negative where the base is wrong.
    assert margins[0].base.value == 0
    assert [row.base.value for row in margins] == sorted(row.base.value for row in margins)
    none = make_figures(asked(LABELS, 200), samples, EvalSection(num_strata=0), seed=0)
    assert {row.by for row in none.strata} == {"label", "difficulty"}


def open_samples(answers: dict[Model, list[str]], references: list[str]) -> list[Sample]:
    return [
        Sample(
            id=f"{i}",
            split="test",
            model=model,
            reference=reference,
            prediction=answer,
            correct=answer == reference,
            answer_nll=1.0 + i,
            num_answer_tokens=1 + i,
        )
        for model in MODELS
        for i, (answer, reference) in enumerate(zip(answers[model], references, strict=True))
    ]


def test_open_figures() -> None:
    references = ["the fees paid", "no cap applies", "ten thousand euros"]
    answers: dict[Model, list[str]] = {
        "base": ["fees", "a cap applies", "I do not know"],
        "tuned": ["the fees paid", "no cap", "ten thousand euros"],
    }
    samples = open_samples(answers, references)
    file = make_figures(asked(None, 3), samples, SETTINGS, seed=0)
    assert (file.kind, file.primary, file.labels, file.strata) == (
        "generation", "exact_match", None, [],
    )  # fmt: skip
    names = ["exact_match", "token_f1", "rouge_l", "answer_nll", "perplexity"]
    assert list(file.differences) == names
    rouge = RougeScorer(["rougeL"])
    for model in MODELS:
        pairs = list(zip(answers[model], references, strict=True))
        found = {name: figure.value for name, figure in file.figures(model).metrics.items()}
        assert found == pytest.approx(
            {
                "exact_match": np.mean([a == b for a, b in pairs]),
                "token_f1": np.mean([token_f1(*pair) for pair in pairs]),
                "rouge_l": np.mean([rouge.score(b, a)["rougeL"].fmeasure for a, b in pairs]),
                "answer_nll": 2.0,
                "perplexity": np.exp((1 * 1 + 2 * 2 + 3 * 3) / 6),
            }
        )
        assert file.figures(model).calibration is None
    assert file.differences["exact_match"].p_value == 0.5
    assert file.differences["rouge_l"].p_value is None


def test_json_answers_are_compared_field_by_field() -> None:
    reference = json.dumps({"a": 1, "b": 2})
    answers: dict[Model, list[str]] = {
        "base": ["none", '{"a": 1}'],
        "tuned": [reference, '{"a": 1, "b": 3}'],
    }
    samples = open_samples(answers, [reference] * 2)
    file = make_figures(asked(None, 2), samples, EvalSection(answer_form="json"), seed=0)
    assert file.base.metrics["json_fields"].value == 0.25
    assert file.tuned.metrics["json_fields"].value == 0.75
    assert "json_fields" not in make_figures(asked(None, 2), samples, SETTINGS, 0).differences


def test_one_example_is_enough() -> None:
    samples, _, _ = two_models(n=1, validation=0)
    file = make_figures(asked(LABELS, 1), samples, SETTINGS, seed=0)
    assert {i.n for i in file.base.metrics.values()} == {1}
    samples = open_samples({"base": ["a"], "tuned": ["b"]}, ["b"])
    assert make_figures(asked(None, 1), samples, SETTINGS, 0).tuned.metrics["rouge_l"].value == 1


def test_a_hopeless_model_has_a_perplexity_that_can_be_written() -> None:
    samples = open_samples({"base": ["a"] * 2, "tuned": ["b"] * 2}, ["b"] * 2)
    samples = [s.model_copy(update={"answer_nll": 2e4}) for s in samples]
    file = make_figures(asked(None, 2), samples, SETTINGS, seed=0)
    assert EvalFile.model_validate_json(file.model_dump_json()) == file


@pytest.mark.parametrize("left", [slice(0, 299), slice(1, None), slice(0, 0)])
def test_samples_that_are_not_pairs_are_refused(left: slice) -> None:
    samples, _, _ = two_models(validation=0)
    samples = samples[:300] + samples[300:][left] if left != slice(0, 0) else []
    with pytest.raises(
        StorageError, match=r"test answers of the base and \d+ of the tuned model; "
    ):
        make_figures(asked(LABELS, 300), samples, SETTINGS, seed=0)


def test_every_metric_knows_its_limits() -> None:
    assert LIMITS.keys() | {"accuracy", "exact_match"} == METRICS.keys()


def test_figures_of_four_thousand_examples_take_seconds() -> None:
    samples, _, _ = two_models(n=4000)
    started = time.process_time()
    make_figures(asked(LABELS, 4000), samples, SETTINGS, seed=0)
    assert time.process_time() - started < 4

"""Answers to figures: base and tuned on the same resamples of the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from doratune.base.confidence import probabilities
from doratune.errors import StorageError
from doratune.evaluate.metrics import classification, strata, texts
from doratune.evaluate.metrics.calibration import (
    calibration_draws,
    coverage_table,
    fit_temperature,
    mass_table,
    width_table,
)
from doratune.evaluate.metrics.intervals import Resamples, difference, mcnemar, share
from doratune.recipe.evaluation import EvalSection
from doratune.record.evaluation import (
    MODELS,
    AnswersFile,
    Calibration,
    Difference,
    EvalFile,
    Interval,
    Model,
    ModelFigures,
    Sample,
    Stratum,
    primary_metric,
)
from doratune.record.schemas import Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

LIMITS: dict[str, tuple[float, float]] = {
    "macro_f1": (0, 1),
    "weighted_f1": (0, 1),
    "matthews": (-1, 1),
    "json_fields": (0, 1),
    "token_f1": (0, 1),
    "rouge_l": (0, 1),
    "answer_nll": (0, np.inf),
    "perplexity": (1, np.inf),
    "ece": (0, 1),
    "ece_mass": (0, 1),
    "brier": (0, 2),
    "label_nll": (0, np.inf),
}
"""What each metric can be, so that its interval does not go beyond."""

_COUNTED = ("accuracy", "exact_match")
"""Metrics that count right answers: they have Wilson intervals and a McNemar test."""


class Answers(NamedTuple):
    """One model's answers to the questions of one split."""

    samples: list[Sample]
    correct: Bools
    truth: Ints
    """Index of the right label; empty for open tasks."""
    logprobs: Floats
    """``(n, num_labels)``; no columns for open tasks."""


def make_figures(
    asked: AnswersFile, samples: Sequence[Sample], settings: EvalSection, seed: int
) -> EvalFile:
    """Computes everything that is told of a task.

    Args:
        asked: How the answers were had.
        samples: The answers of both models.
        settings: The recipe's; only what concerns metrics is used.
        seed: Of the bootstrap.

    Raises:
        StorageError: The samples are not those of two models on the same examples.
        DataError: Reference answers or difficulties are not such as the recipe says.
    """
    test = {m: _answers(asked.labels, _rows(samples, m, "test")) for m in MODELS}
    base, tuned = test["base"], test["tuned"]
    if not base.samples or [s.id for s in base.samples] != [s.id for s in tuned.samples]:
        raise StorageError(
            f"The samples of the task {asked.task!r} have {len(base.samples)} test answers of the "
            f"base and {len(tuned.samples)} of the tuned model; expected the same examples in the "
            "same order. Delete the file and run `doratune eval` again."
        )
    resamples = Resamples(len(base.samples), seed)
    draws = {model: _draws(resamples, test[model], asked.labels, settings) for model in MODELS}
    figures: dict[Model, ModelFigures] = {}
    for model in MODELS:
        validation = _answers(asked.labels, _rows(samples, model, "validation"))
        figures[model] = _figures(
            resamples, test[model], validation, draws[model], asked, settings, model
        )
    return EvalFile(
        task=asked.task,
        kind=asked.kind,
        primary=primary_metric(asked.labels),
        split="test",
        num_examples=len(base.samples),
        labels=asked.labels,
        base=figures["base"],
        tuned=figures["tuned"],
        differences={
            name: Difference(
                value=resamples.interval(draws["tuned"][name] - draws["base"][name]),
                p_value=mcnemar(base.correct, tuned.correct) if name in _COUNTED else None,
            )
            for name in draws["base"]
        },
        strata=_strata(base, tuned, asked.labels, settings, seed),
    )


def measure(
    samples: Sequence[Sample], labels: list[str] | None, settings: EvalSection
) -> dict[str, float]:
    """Every metric of one model's answers to the questions of one split, without intervals.

    Args:
        samples: At least one.
        labels: The closed set of labels; None for open tasks.
        settings: As for `make_figures`.

    Raises:
        DataError: As for `make_figures`.
    """
    only_measured = Resamples(len(samples), seed=0, num_draws=0)
    draws = _draws(only_measured, _answers(labels, samples), labels, settings)
    return {name: values.item() for name, values in draws.items()}


def _rows(samples: Sequence[Sample], model: Model, split: Split) -> list[Sample]:
    return [s for s in samples if (s.model, s.split) == (model, split)]


def _answers(labels: list[str] | None, rows: Sequence[Sample]) -> Answers:
    labels = labels or []
    index = {label: i for i, label in enumerate(labels)}
    logprobs = [[(s.label_logprobs or {})[label] for label in labels] for s in rows]
    return Answers(
        samples=list(rows),
        correct=np.array([s.correct for s in rows], np.bool_),
        truth=np.array([index[s.reference] for s in rows] if labels else [], np.int64),
        logprobs=np.array(logprobs, np.float64).reshape(len(rows), len(labels)),
    )


def _draws(
    resamples: Resamples, answers: Answers, labels: list[str] | None, settings: EvalSection
) -> dict[str, Floats]:
    """Every metric, of the sample and of each draw, in the order of tables."""
    nll = np.array([s.answer_nll for s in answers.samples])
    tokens = np.array([s.num_answer_tokens for s in answers.samples], np.float64)
    # exp(700) is the end of float64; a model that is so wrong is broken in either case.
    log_perplexity = np.minimum(resamples.sums(nll * tokens) / resamples.sums(tokens), 700)
    losses = {"answer_nll": resamples.means(nll), "perplexity": np.exp(log_perplexity)}
    if labels is None:
        return {
            "exact_match": resamples.means(answers.correct),
            **_text_draws(resamples, answers, settings),
            **losses,
        }
    guess = answers.logprobs.argmax(axis=1)
    counts = classification.count(resamples, answers.truth, guess, len(labels))
    return {
        "accuracy": classification.accuracy(counts),
        "macro_f1": classification.macro_f1(counts),
        "weighted_f1": classification.weighted_f1(counts),
        "matthews": classification.matthews(counts),
        **losses,
        **calibration_draws(resamples, answers.logprobs, answers.truth, settings.num_bins),
    }


def _text_draws(resamples: Resamples, answers: Answers, settings: EvalSection) -> dict[str, Floats]:
    scores = {"token_f1": texts.token_f1, "rouge_l": texts.rouge_l}
    if settings.answer_form == "json":
        scores = {"json_fields": texts.json_fields, **scores}
    return {
        name: resamples.means(np.array([score(s.prediction, s.reference) for s in answers.samples]))
        for name, score in scores.items()
    }


def _figures(
    resamples: Resamples,
    test: Answers,
    validation: Answers,
    draws: dict[str, Floats],
    asked: AnswersFile,
    settings: EvalSection,
    model: Model,
) -> ModelFigures:
    metrics = {
        name: share(test.correct) if name in _COUNTED else _interval(resamples, name, values)
        for name, values in draws.items()
    }
    if asked.labels is None:
        return ModelFigures(metrics=metrics, seconds=asked.seconds[model])
    guess = test.logprobs.argmax(axis=1)
    return ModelFigures(
        metrics=metrics,
        classes=classification.class_table(test.truth, guess, asked.labels),
        confusion=classification.confusion(test.truth, guess, len(asked.labels)),
        calibration=_calibration(resamples, test, validation, settings),
        seconds=asked.seconds[model],
    )


def _interval(resamples: Resamples, name: str, values: Floats) -> Interval:
    low, high = LIMITS[name]
    if name != "perplexity":
        return resamples.interval(values, low, high)
    # On the scale of the loss, where draws are spread evenly; shifted perplexities could be below 1.
    logs = resamples.interval(np.log(values), 0)
    ends = {key: float(np.exp(getattr(logs, key))) for key in ("value", "low", "high")}
    return logs.model_copy(update=ends)


def _calibration(
    resamples: Resamples, test: Answers, validation: Answers, settings: EvalSection
) -> Calibration:
    confidence = probabilities(test.logprobs).max(axis=1)
    temperature, note = fit_temperature(validation.logprobs, validation.truth)
    scaled: dict[str, Interval] = {}
    scaled_bins = []
    if temperature is not None:
        draws = calibration_draws(
            resamples, test.logprobs, test.truth, settings.num_bins, temperature
        )
        scaled = {name: _interval(resamples, name, values) for name, values in draws.items()}
        surer = probabilities(test.logprobs, temperature).max(axis=1)
        scaled_bins = width_table(surer, test.correct, settings.num_bins)
    return Calibration(
        bins=width_table(confidence, test.correct, settings.num_bins),
        mass_bins=mass_table(confidence, test.correct, settings.num_bins),
        temperature=temperature,
        temperature_note=note,
        num_validation=len(validation.samples),
        scaled=scaled,
        scaled_bins=scaled_bins,
        coverage=coverage_table(confidence, test.correct, settings.coverages),
    )


def _strata(
    base: Answers, tuned: Answers, labels: list[str] | None, settings: EvalSection, seed: int
) -> list[Stratum]:
    groups: dict[str, strata.Groups] = {}
    if labels is not None:
        groups["label"] = strata.by_label(base.truth, labels)
    difficulties = [s.difficulty for s in base.samples]
    if any(value is not None for value in difficulties):
        groups["difficulty"] = strata.by_difficulty(difficulties, settings.num_strata)
    if labels is not None and len(labels) > 1 and settings.num_strata:
        margin = strata.base_margin(base.logprobs, base.truth)
        groups["base margin"] = strata.quantiles(margin, settings.num_strata)
    return [
        Stratum.model_validate(
            {
                "by": by,
                "name": name,
                "base": share(base.correct[rows]),
                "tuned": share(tuned.correct[rows]),
                "difference": difference(base.correct[rows], tuned.correct[rows], seed).value,
            }
        )
        for by, named in groups.items()
        for name, rows in named.items()
    ]

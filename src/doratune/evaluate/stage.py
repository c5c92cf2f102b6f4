"""The evaluation stage: base and tuned model on the same test examples."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from doratune.adapter.tuned import load_tuned
from doratune.base import fingerprint, load_base, load_tokenizer, resolve_base
from doratune.data import Renderer, read_examples
from doratune.errors import DataError
from doratune.evaluate import metrics
from doratune.evaluate.ask import Outcome, Questions, ask, make_questions
from doratune.recipe.schema import Recipe
from doratune.record.evaluation import EvalFile, ModelFigures, Sample
from doratune.record.files import digest_json, digest_path, write_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, Example

_NOT_EVALUATED = {
    "text": "plain text, which asks nothing, so that there are no answers to compare. "
    "train.json has the loss on the validation split. Go on with `doratune merge`.",
    "preference": "preference data, and choosing between two answers is not evaluated yet. Rename "
    "'chosen' to 'completion' to evaluate how the preferred answers are given.",
}
"""Formats whose examples have no reference answer, and what to do instead."""


def evaluate_models(run: RunFolder, recipe: Recipe) -> bool:
    """Evaluates base and tuned model on the test split, one in memory at a time.

    Reads ``data.json``, the test examples and ``adapter/``; writes ``eval/<task>.json`` and
    ``eval/<task>.samples.jsonl``. With a closed label set the answer is the most likely label;
    otherwise it is generated.

    Returns:
        Whether anything was done; False when the figures are up to date.

    Raises:
        DataError: There are no test examples, or they have no reference answers.
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base cannot be had, or labels cannot be scored with it.
        StorageError: A file of the run folder cannot be read or written.
    """
    data = DataFile.read(run.data)
    if data.format in _NOT_EVALUATED:
        raise DataError(f"The test examples are {_NOT_EVALUATED[data.format]}")
    if "test" not in data.splits or data.splits["test"].num_examples == 0:
        raise DataError(
            f"{run.data} says there are 0 test examples; evaluation needs at least 1. "
            "Raise data.test_share, or give a data.test_source."
        )
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    settings = {
        "eval": recipe.eval.model_dump(),
        "template": recipe.data.template,
        "dtype": recipe.model.dtype,
        "labels": data.labels,
        "seed": recipe.seed,
    }
    return run.run_stage(
        "eval",
        inputs={
            "base": fingerprint(base_path),
            "adapter": digest_path(run.adapter),
            "data": data.splits["test"].digest,
            "settings": digest_json(settings),
        },
        outputs=[run.eval_file(recipe.eval.task), run.samples(recipe.eval.task)],
        work=lambda: _evaluate(run, recipe, base_path, data.labels),
    )


def _evaluate(run: RunFolder, recipe: Recipe, base_path: Path, labels: list[str] | None) -> None:
    examples = read_examples(run, "test")
    tokenizer = load_tokenizer(base_path)
    questions = make_questions(Renderer(tokenizer, recipe.data.template), examples, labels)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    # The tuned model comes first: a damaged adapter shows before the base has taken its time.
    model = load_tuned(base_path, run.adapter, recipe.model.dtype).to(device)
    tuned = ask(model, tokenizer, questions, recipe.eval, "Evaluating the tuned model")
    del model
    gc.collect()
    model = load_base(base_path, recipe.model.dtype).to(device)
    base = ask(model, tokenizer, questions, recipe.eval, "Evaluating the base model")

    file = EvalFile(
        task=recipe.eval.task,
        kind="generation" if labels is None else "labels",
        split="test",
        num_examples=len(examples),
        labels=labels,
        base=_figures(questions, base, recipe),
        tuned=_figures(questions, tuned, recipe),
        difference=metrics.difference(base.correct, tuned.correct, recipe.seed),
    )
    samples = _samples("base", examples, questions, base) + _samples(
        "tuned", examples, questions, tuned
    )
    write_jsonl(run.samples(recipe.eval.task), [sample.model_dump() for sample in samples])
    file.write(run.eval_file(recipe.eval.task))


def _figures(questions: Questions, outcome: Outcome, recipe: Recipe) -> ModelFigures:
    nll = metrics.mean(outcome.answer_nll, recipe.seed)
    right = metrics.share(outcome.correct)
    if questions.labels is None or outcome.logprobs is None:
        return ModelFigures(exact_match=right, answer_nll=nll, seconds=outcome.seconds)
    labels = questions.labels
    truth = np.array([labels.index(reference) for reference in questions.references])
    choice = np.array([labels.index(prediction) for prediction in outcome.predictions])
    ece, bins = metrics.calibration(
        metrics.confidences(outcome.logprobs), outcome.correct, recipe.eval.num_bins, recipe.seed
    )
    return ModelFigures(
        accuracy=right,
        macro_f1=metrics.macro_f1(truth, choice, len(labels), recipe.seed),
        ece=ece,
        answer_nll=nll,
        classes=metrics.class_table(truth, choice, labels),
        bins=bins,
        seconds=outcome.seconds,
    )


def _samples(
    model: Literal["base", "tuned"], examples: list[Example], questions: Questions, outcome: Outcome
) -> list[Sample]:
    rows = []
    for i, example in enumerate(examples):
        logprobs = None
        if questions.labels is not None and outcome.logprobs is not None:
            logprobs = dict(zip(questions.labels, outcome.logprobs[i].tolist(), strict=True))
        rows.append(
            Sample(
                id=example.id,
                model=model,
                reference=questions.references[i],
                prediction=outcome.predictions[i],
                correct=bool(outcome.correct[i]),
                answer_nll=float(outcome.answer_nll[i]),
                label_logprobs=logprobs,
            )
        )
    return rows

"""One model's answers to the test split."""

from __future__ import annotations

from collections.abc import Sequence

from doratune.base import load_tokenizer, resolve_base
from doratune.data import Renderer, read_examples
from doratune.data.questions import make_questions
from doratune.evaluate.answers import Asked, ask_all, load_model
from doratune.recipe import Recipe
from doratune.record.evaluation import Model, ModelAnswers, Sample
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile

ANSWERS = "answers.json"


def answer_test(run: RunFolder, recipe: Recipe, name: Model) -> ModelAnswers:
    """Asks the base or the run's tuned model all test questions; writes ``answers.json``.

    Raises:
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base cannot be had, or labels cannot be scored with it.
    """
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    tokenizer = load_tokenizer(base_path)
    examples = read_examples(run, "test")
    renderer = Renderer(tokenizer, recipe.data.template)
    questions = make_questions(renderer, examples, DataFile.read(run.data).labels)
    model = load_model(name, base_path, run.adapter, recipe.model)
    asked = [Asked("test", examples, questions)]
    answers = ask_all(name, model, tokenizer, asked, recipe.eval)
    answers.write(run.path / ANSWERS)
    return answers


def read_answers(run: RunFolder) -> ModelAnswers:
    """What a finished job answered."""
    return ModelAnswers.read(run.path / ANSWERS)


def share_right(samples: Sequence[Sample]) -> float:
    """Share of right answers: accuracy, or exact match of open tasks."""
    return sum(sample.correct for sample in samples) / len(samples)

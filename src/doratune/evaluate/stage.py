"""The evaluation stage: base and tuned model on the same test examples."""

from __future__ import annotations

from doratune.base import resolve_base
from doratune.errors import DataError
from doratune.evaluate.answers import collect_answers
from doratune.evaluate.figures import make_figures
from doratune.recipe.schema import Recipe
from doratune.record.evaluation import AnswersFile, Sample
from doratune.record.files import digest_json, digest_path
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile

_NOT_EVALUATED = {
    "text": "plain text, which asks nothing, so that there are no answers to compare. "
    "train.json has the loss on the validation split. Go on with `doratune merge`.",
    "preference": "preference data, and choosing between two answers is not evaluated yet. Rename "
    "'chosen' to 'completion' to evaluate how the preferred answers are given.",
}
"""Formats whose examples have no reference answer, and what to do instead."""


def evaluate_models(run: RunFolder, recipe: Recipe) -> bool:
    """Evaluates base and tuned model on the test split, one in memory at a time.

    Reads ``data.json``, the examples and ``adapter/``; writes what was answered,
    ``eval/<task>.samples.jsonl`` and ``eval/<task>.answers.json``, and the figures,
    ``eval/<task>.json``. With a closed label set the answer is the most likely label; otherwise it
    is generated. Where only metrics are to be different, figures are made of the answers that are
    there, without any model.

    Returns:
        Whether anything was done; False when the figures are up to date.

    Raises:
        DataError: There are no test examples, or they have no reference answers, or not such as the
            recipe says.
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
    asked = collect_answers(run, recipe, data, base_path)
    return _score(run, recipe) or asked


def _score(run: RunFolder, recipe: Recipe) -> bool:
    """Makes the figures of the answers, unless they are up to date."""
    task, settings = recipe.eval.task, recipe.eval
    matters = {"answer_form", "num_bins", "num_strata", "coverages"}
    inputs = {
        "samples": digest_path(run.samples(task)),
        "answers": digest_path(run.answers(task)),
        "settings": digest_json(
            {**settings.model_dump(include=matters), "task": task, "seed": recipe.seed}
        ),
    }

    def work() -> None:
        samples = Sample.read_lines(run.samples(task))
        figures = make_figures(AnswersFile.read(run.answers(task)), samples, settings, recipe.seed)
        figures.write(run.eval_file(task))

    return run.run_stage("eval", inputs, [run.eval_file(task)], work)

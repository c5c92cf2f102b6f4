"""Both models asked: everything that figures are made of, in one file of samples."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from doratune.adapter.tuned import load_tuned
from doratune.base import fingerprint, load_base, load_tokenizer
from doratune.data import Renderer, read_examples
from doratune.data.questions import VALIDATION_QUESTIONS, Questions, make_questions, some_of
from doratune.evaluate.ask import Outcome, ask
from doratune.evaluate.metrics.strata import by_difficulty
from doratune.evaluate.metrics.texts import json_object
from doratune.progress import console
from doratune.recipe.evaluation import EvalSection
from doratune.recipe.schema import ModelSection, Recipe
from doratune.record.evaluation import MODELS, AnswersFile, Model, ModelAnswers, Sample
from doratune.record.files import digest_json, digest_path, write_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, Example, Split

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Asked(NamedTuple):
    """One split's examples, and the questions they make."""

    split: Split
    examples: list[Example]
    questions: Questions


def collect_answers(run: RunFolder, recipe: Recipe, data: DataFile, base_path: Path) -> bool:
    """Asks both models, unless their answers are there.

    Reads the examples and ``adapter/``; writes ``eval/<task>.samples.jsonl`` and
    ``eval/<task>.answers.json``. The answers of the model that is asked first are kept when the
    other one is not done, and used by the next call with the same inputs.

    Returns:
        Whether anything was done.

    Raises:
        DataError: A reference answer is not in the form that the recipe says.
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: Labels cannot be scored with the base.
    """
    settings = {
        "task": recipe.eval.task,
        "labels": data.labels,
        "template": recipe.data.template,
        "dtype": recipe.model.dtype,
        "quantize": recipe.model.quantize,
        "max_new_tokens": None if data.labels else recipe.eval.max_new_tokens,
        "validation_questions": VALIDATION_QUESTIONS if data.labels else 0,
    }
    splits = ("test", "validation") if data.labels else ("test",)
    inputs = {
        "base": fingerprint(base_path),
        "adapter": digest_path(run.adapter),
        "data": digest_json({s: data.splits[s].digest for s in splits if s in data.splits}),
        "settings": digest_json(settings),
    }
    if recipe.data.difficulty_column is not None:
        # It is no part of what examples say, and so not of their digest.
        inputs["difficulty"] = digest_path(run.examples("test"))
    task = recipe.eval.task
    return run.run_stage(
        "answers",
        inputs,
        [run.samples(task), run.answers(task)],
        lambda: _Asking(run, recipe, data, base_path, inputs).work(),
    )


class _Asking:
    """One sitting."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        data: DataFile,
        base_path: Path,
        inputs: dict[str, str],
    ) -> None:
        self.run, self.recipe, self.labels = run, recipe, data.labels
        self.base_path, self.inputs = base_path, inputs
        self.tokenizer = load_tokenizer(base_path)
        renderer = Renderer(self.tokenizer, recipe.data.template)
        self.asked = []
        for split, examples in _examples(run, data):
            questions = make_questions(renderer, examples, data.labels)
            self.asked.append(Asked(split, examples, questions))
        self._check(self.asked[0])
        self.parts = run.eval / f".{recipe.eval.task}.work"

    def _check(self, asked: Asked) -> None:
        """Finds what would stop the figures, before hours of answers."""
        if self.labels is None and self.recipe.eval.answer_form == "json":
            for reference in asked.questions.references:
                json_object(reference)
        by_difficulty([e.difficulty for e in asked.examples], self.recipe.eval.num_strata)

    def work(self) -> None:
        """Asks, and writes what was answered."""
        told = " and ".join(f"{len(a.examples):,} {a.split} questions" for a in self.asked)
        console.print(f"Asking the tuned and the base model {told}")
        # The tuned model comes first: a damaged adapter shows before the base has taken its time.
        answers: dict[Model, ModelAnswers] = {"tuned": self._answers_of("tuned")}
        gc.collect()  # PEFT's models hold themselves; there may not be room for two
        answers["base"] = self._answers_of("base")
        samples = [sample for model in MODELS for sample in answers[model].samples]
        task = self.recipe.eval.task
        write_jsonl(self.run.samples(task), [sample.model_dump() for sample in samples])
        num_questions = {a.split: len(a.examples) for a in self.asked}
        _answers_file(self.recipe, self.labels, num_questions, answers).write(
            self.run.answers(task)
        )
        shutil.rmtree(self.parts)

    def _answers_of(self, name: Model) -> ModelAnswers:
        """Asks one model, unless an interrupted sitting has done so."""
        matters = {k: v for k, v in self.inputs.items() if k != "adapter" or name == "tuned"}
        path = self.parts / f"{name}-{digest_json(matters)[:16]}.json"
        if path.exists():
            console.print(f"The {name} model has answered already")
            return ModelAnswers.read(path)
        model = load_model(name, self.base_path, self.run.adapter, self.recipe.model)
        answers = ask_all(name, model, self.tokenizer, self.asked, self.recipe.eval)
        answers.write(path)
        return answers


def load_model(
    name: Model, base_path: Path, adapter: Path, section: ModelSection
) -> PreTrainedModel | PeftModel:
    """The base or the tuned model of a run, on the GPU where there is one.

    Raises:
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base cannot be had.
    """
    if name == "base":
        model: PreTrainedModel | PeftModel = load_base(base_path, section.dtype, section.quantize)
    else:
        model = load_tuned(base_path, adapter, section.dtype)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def ask_all(
    name: Model,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    settings: EvalSection,
) -> ModelAnswers:
    """Asks one model the questions of all splits."""
    samples: list[Sample] = []
    seconds = 0.0
    for split, examples, questions in asked:
        title = f"Asking the {name} model" + (f", {split}" if split != "test" else "")
        outcome = ask(model, tokenizer, questions, settings, title)
        samples += _samples(name, split, examples, questions, outcome)
        seconds += outcome.seconds
    return ModelAnswers(
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        seconds=seconds,
        samples=samples,
    )


def _answers_file(
    recipe: Recipe,
    labels: list[str] | None,
    num_questions: dict[Split, int],
    answers: dict[Model, ModelAnswers],
) -> AnswersFile:
    """How the answers of both models were had."""
    return AnswersFile(
        task=recipe.eval.task,
        kind="generation" if labels is None else "labels",
        labels=labels,
        template=recipe.data.template,
        max_new_tokens=recipe.eval.max_new_tokens if labels is None else None,
        num_questions=num_questions,
        dtype={model: answers[model].dtype for model in MODELS},
        device={model: answers[model].device for model in MODELS},
        seconds={model: answers[model].seconds for model in MODELS},
    )


def _examples(run: RunFolder, data: DataFile) -> Iterator[tuple[Split, list[Example]]]:
    """What is asked: the test split and, for labels, some of the validation split."""
    yield "test", read_examples(run, "test")
    validation = data.splits.get("validation")
    if data.labels is not None and validation is not None and validation.num_examples:
        yield "validation", some_of(read_examples(run, "validation"), VALIDATION_QUESTIONS)


def _samples(
    model: Model,
    split: Split,
    examples: Sequence[Example],
    questions: Questions,
    outcome: Outcome,
) -> list[Sample]:
    """What one model answered to the questions of a split, a row each."""
    rows = []
    for i, example in enumerate(examples):
        logprobs = None
        if questions.labels is not None and outcome.logprobs is not None:
            logprobs = dict(zip(questions.labels, outcome.logprobs[i].tolist(), strict=True))
        rows.append(
            Sample(
                id=example.id,
                split=split,
                model=model,
                reference=questions.references[i],
                prediction=outcome.predictions[i],
                correct=bool(outcome.correct[i]),
                answer_nll=float(outcome.answer_nll[i]),
                num_answer_tokens=len(questions.answers[i]),
                label_logprobs=logprobs,
                difficulty=example.difficulty,
            )
        )
    return rows

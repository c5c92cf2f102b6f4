"""Test examples as questions, and one model's answers to them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from doratune.base.likelihood import answer_nll
from doratune.data import Renderer
from doratune.evaluate.generate import greedy_answers, same_answer
from doratune.evaluate.score import label_logprobs
from doratune.recipe.schema import EvalSection
from doratune.record.schemas import Example

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Questions(NamedTuple):
    """The examples as token ids, all lists in one order."""

    prompts: list[list[int]]
    references: list[str]
    answers: list[list[int]]
    """Ids of the references, end-of-turn token included."""
    labels: list[str] | None
    """The closed label set; None for open tasks."""
    label_ids: list[list[list[int]]]
    """For each prompt the ids of each label, end-of-turn token included; empty for open tasks."""


class Outcome(NamedTuple):
    """What one model answered, in the order of the questions."""

    predictions: list[str]
    correct: NDArray[np.bool_]
    answer_nll: NDArray[np.float64]
    """Nats per token of the reference answer."""
    logprobs: NDArray[np.float64] | None
    """(n, num_labels); None for open tasks."""
    seconds: float


def make_questions(
    renderer: Renderer, examples: Sequence[Example], labels: list[str] | None
) -> Questions:
    """Renders the examples. An answer that calls tools is compared as the text of its calls."""
    answers = [renderer.answer(e.prompt, e.messages[-1], e.tools) for e in examples]
    label_ids = []
    if labels is not None:
        # All labels of every prompt would take milliseconds each to render, and practically always
        # come out the same. The reference tells where they do not.
        common = [renderer.answer(examples[0].prompt, label) for label in labels]
        for example, answer in zip(examples, answers, strict=True):
            if answer == common[labels.index(example.answer)]:
                label_ids.append(common)
            else:
                label_ids.append([renderer.answer(example.prompt, label) for label in labels])
    return Questions(
        prompts=[renderer.prompt(example.prompt, example.tools) for example in examples],
        references=[
            renderer.tokenizer.decode(answer[:-1]) if e.messages[-1].tool_calls else e.answer
            for e, answer in zip(examples, answers, strict=True)
        ],
        answers=answers,
        labels=labels,
        label_ids=label_ids,
    )


def ask(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    settings: EvalSection,
    description: str,
) -> Outcome:
    """Asks a model all questions: the most likely label, or a generated answer."""
    if questions.labels is None:
        return _ask_open(model, tokenizer, questions, settings, description)
    return _ask_labels(model, tokenizer, questions, questions.labels, settings, description)


def _ask_labels(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    labels: list[str],
    settings: EvalSection,
    description: str,
) -> Outcome:
    started = time.monotonic()
    logprobs = label_logprobs(
        model,
        questions.prompts,
        questions.label_ids,
        pad_id=tokenizer.pad_token_id,
        batch_size=settings.batch_size,
        description=description,
    )
    truth = np.array([labels.index(reference) for reference in questions.references])
    choice = logprobs.argmax(axis=1)
    lengths = np.array([len(ids) for ids in questions.answers])
    return Outcome(
        predictions=[labels[i] for i in choice],
        correct=choice == truth,
        answer_nll=-logprobs[np.arange(len(truth)), truth] / lengths,
        logprobs=logprobs,
        seconds=time.monotonic() - started,
    )


def _ask_open(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    settings: EvalSection,
    description: str,
) -> Outcome:
    started = time.monotonic()
    nll = answer_nll(
        model,
        questions.prompts,
        questions.answers,
        pad_id=tokenizer.pad_token_id,
        batch_size=settings.batch_size,
        description=f"{description}, references",
    )
    predictions = greedy_answers(
        model,
        tokenizer,
        questions.prompts,
        # The template's end of turn, and the tokenizer's own where that is another.
        stop_ids={questions.answers[0][-1], tokenizer.eos_token_id} - {None},
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        description=f"{description}, answers",
    )
    pairs = zip(predictions, questions.references, strict=True)
    return Outcome(
        predictions=predictions,
        correct=np.array([same_answer(*pair) for pair in pairs]),
        answer_nll=nll,
        logprobs=None,
        seconds=time.monotonic() - started,
    )

"""One model's answers to questions: the most likely label, or a text of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from doratune.base.label_likelihood import label_logprobs
from doratune.base.likelihood import answer_nll
from doratune.data.questions import Questions
from doratune.evaluate.generate import greedy_answers, same_answer
from doratune.recipe.evaluation import EvalSection

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Outcome(NamedTuple):
    """What one model answered, in the order of the questions."""

    predictions: list[str]
    correct: NDArray[np.bool_]
    answer_nll: NDArray[np.float64]
    """Nats per token of the reference answer."""
    logprobs: NDArray[np.float64] | None
    """(n, num_labels); None for open tasks."""
    seconds: float


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
    truth = np.array(questions.truth)
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

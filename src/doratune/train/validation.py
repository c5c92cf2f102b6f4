"""What the model in training makes of the validation split, and of texts from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from doratune.base.confidence import (
    calibration_error,
    equal_width_bins,
    label_losses,
    probabilities,
)
from doratune.base.label_likelihood import label_logprobs
from doratune.base.likelihood import answer_nll
from doratune.data import Renderer, read_examples
from doratune.data.questions import VALIDATION_QUESTIONS, make_questions, some_of
from doratune.data.texts import read_texts
from doratune.errors import DataError
from doratune.eval_mode import evaluating
from doratune.recipe import Recipe
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MOST_TEXTS = 200
"""Texts from elsewhere that are looked at after each epoch, chosen by hash."""


class Validation:
    """Questions and texts for a model in training.

    Args:
        run: Has the validation split.
        recipe: Says how questions are asked, and names the texts.
        tokenizer: Of the base.

    Raises:
        DataError: There is neither a validation example nor a text to measure on.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
        self.settings = recipe.eval
        self.pad_id: int = tokenizer.pad_token_id
        renderer = Renderer(tokenizer, recipe.data.template)
        data = DataFile.read(run.data)
        examples = some_of(read_examples(run, "validation"), VALIDATION_QUESTIONS)
        self.num_examples = len(examples)
        self.plain_text = data.format == "text"
        if self.plain_text:
            self.sequences = [renderer.example(e.messages).input_ids for e in examples]
        else:
            self.questions = make_questions(renderer, examples, data.labels)
        self.texts: list[list[int]] = []
        if recipe.eval.benchmarks.texts is not None:
            # As `doratune benchmarks` reads them, but for the end of long ones: after one token.
            bos = tokenizer.bos_token_id
            before = tokenizer.eos_token_id if bos is None else bos
            for text in read_texts(recipe.eval.benchmarks.texts, MOST_TEXTS, recipe.seed):
                ids = tokenizer(text.content, verbose=False)["input_ids"]
                self.texts.append([before, *ids[: recipe.data.max_length]])
        if not examples and not self.texts:
            raise DataError(
                "eval.every_epoch measures the model on the validation split, which has 0 examples. "
                "Raise data.validation_share, or set eval.every_epoch: false."
            )

    def figures(self, model: PreTrainedModel | PeftModel) -> dict[str, float]:
        """Measures a model; its mode and the state of random numbers are what they were afterwards.

        Returns:
            Keys of `METRICS`, and ``out_of_domain_perplexity`` where there are texts.
        """
        found: dict[str, float] = {}
        with evaluating(model):
            if self.num_examples and self.plain_text:
                found["perplexity"] = self._perplexity(model, self.sequences)
            elif self.num_examples:
                found |= self._labels(model) if self.questions.labels else self._open(model)
            if self.texts:
                found["out_of_domain_perplexity"] = self._perplexity(model, self.texts)
        return found

    def _labels(self, model: PreTrainedModel | PeftModel) -> dict[str, float]:
        logprobs = label_logprobs(
            model,
            self.questions.prompts,
            self.questions.label_ids,
            pad_id=self.pad_id,
            batch_size=self.settings.batch_size,
            description="",
        )
        truth = np.array(self.questions.truth)
        correct = logprobs.argmax(axis=1) == truth
        confidence = probabilities(logprobs).max(axis=1)
        bins = equal_width_bins(confidence, self.settings.num_bins)
        return {
            "accuracy": float(correct.mean()),
            "ece": calibration_error(confidence, correct, bins),
            "label_nll": float(label_losses(logprobs, truth).mean()),
        }

    def _open(self, model: PreTrainedModel | PeftModel) -> dict[str, float]:
        losses = self._losses(model, self.questions.prompts, self.questions.answers)
        tokens = [len(answer) for answer in self.questions.answers]
        return {
            "answer_nll": float(losses.mean()),
            "perplexity": math.exp(np.average(losses, weights=tokens)),
        }

    def _perplexity(
        self, model: PreTrainedModel | PeftModel, sequences: Sequence[list[int]]
    ) -> float:
        """Of all tokens but the first of each sequence."""
        losses = self._losses(model, [ids[:1] for ids in sequences], [ids[1:] for ids in sequences])
        return math.exp(np.average(losses, weights=[len(ids) - 1 for ids in sequences]))

    def _losses(
        self,
        model: PreTrainedModel | PeftModel,
        prompts: Sequence[list[int]],
        answers: Sequence[list[int]],
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return answer_nll(
            model,
            prompts,
            answers,
            pad_id=self.pad_id,
            batch_size=self.settings.batch_size,
            description="",
        )

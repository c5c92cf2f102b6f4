"""Answers that the base model finds far more, or far less, surprising than the others.

Two figures for every example, in nats per token of its last answer: after its prompt, and on its own,
after nothing but what the template opens an answer with. What goes wrong shows at different ends of
them: shuffled or foreign text is surprising on its own, text that repeats itself is obvious on its own,
a wrong label is surprising after its prompt, and the answer to another question is hardly likelier after
its prompt than on its own (that ratio is known as instruction-following difficulty, Li et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from doratune.base.likelihood import answer_nll
from doratune.data.render import IGNORED, Rendered, Renderer
from doratune.record.schemas import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_SIZE = 4
"""Sequences per forward pass. More gain nothing on a CPU, and the logits of four answers of 1,024
tokens over a vocabulary of 128,000 are 1 GB in bfloat16 already."""


class Scores(NamedTuple):
    """How surprising each answer is to the base model, nats per token, shape (examples,) each."""

    after_prompt: NDArray[np.float64]
    alone: NDArray[np.float64]


class Tail(NamedTuple):
    """One bad end of one figure."""

    kind: str
    nats: NDArray[np.float64]
    """The figure, shape (examples,)."""
    limit: float
    high: bool
    """Whether the bad end is the upper one."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which examples lie beyond the limit, not at it: where all are equal, none is odd."""
        return self.nats > self.limit if self.high else self.nats < self.limit

    def why(self, index: int) -> str:
        """What an example has, and the limit, as perplexities or their ratio."""
        value, side = math.exp(self.nats[index]), "above" if self.high else "below"
        return f"{self.kind}: {value:.3g}, {side} {math.exp(self.limit):.3g}"


def scores(
    model: PreTrainedModel,
    renderer: Renderer,
    examples: Sequence[Rendered],
    batch_size: int = BATCH_SIZE,
) -> Scores:
    """Runs the base model over the last answer of every example, with and without its prompt.

    An answer that many examples have, such as a label, is run on its own only once. A plain text has
    no prompt; it is scored after its first token, and both figures are the same.

    Args:
        model: In eval mode; its own device is used.
        renderer: What rendered the examples.
        examples: Each with two tokens or more, one of them learnt.
        batch_size: Sequences per forward pass.

    Raises:
        ModelError: A result is not finite.
    """
    parts = [_last_answer(example) for example in examples]
    opening = _opening(renderer) if any(len(prompt) > 1 for prompt, _ in parts) else []
    alone = [(tuple(opening if len(p) > 1 else p), tuple(answer)) for p, answer in parts]
    distinct = list(dict.fromkeys(alone))
    passes = (
        ("Answers after their prompts", parts),
        ("Answers on their own", [(list(prompt), list(answer)) for prompt, answer in distinct]),
    )
    after_prompt, nll = (
        answer_nll(
            model,
            [prompt for prompt, _ in pairs],
            [answer for _, answer in pairs],
            pad_id=renderer.tokenizer.pad_token_id,
            batch_size=batch_size,
            description=description,
        )
        for description, pairs in passes
    )
    place = {pair: index for index, pair in enumerate(distinct)}
    return Scores(after_prompt, nll[[place[pair] for pair in alone]])


def tails(scores: Scores, quantile: float) -> list[Tail]:
    """The five bad ends.

    Args:
        scores: Of all examples.
        quantile: Share of the examples that lies beyond each limit, ties aside.
    """
    figures = (
        ("perplexity after the prompt", scores.after_prompt, False),
        ("perplexity after the prompt", scores.after_prompt, True),
        ("perplexity on its own", scores.alone, False),
        ("perplexity on its own", scores.alone, True),
        ("gain from the prompt", scores.alone - scores.after_prompt, False),
    )
    return [
        Tail(
            f"{'high' if high else 'low'} {name}",
            nats,
            float(np.quantile(nats, 1 - quantile if high else quantile)) if len(nats) else 0.0,
            high,
        )
        for name, nats, high in figures
    ]


def _last_answer(example: Rendered) -> tuple[list[int], list[int]]:
    """Ids before, and of, the last stretch of learnt tokens."""
    end = len(example.labels)
    while example.labels[end - 1] == IGNORED:
        end -= 1
    start = end
    while start > 0 and example.labels[start - 1] != IGNORED:
        start -= 1
    start = max(start, 1)  # the model needs something to go on
    return example.input_ids[:start], example.input_ids[start:end]


def _opening(renderer: Renderer) -> list[int]:
    """Ids with which every prompt ends, whatever is asked."""
    one, other = (
        renderer.prompt([Message(role="user", content=question)])[::-1]
        for question in ("Why?", "Tell me about 17 of them.")
    )
    length = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[:length][::-1]

"""Log-likelihoods of all labels of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from doratune.base.continuations import score_continuations
from doratune.progress import progress_bar

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from peft import PeftModel
    from transformers import PreTrainedModel


def label_logprobs(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[list[int]],
    answers: Sequence[Sequence[list[int]]],
    *,
    pad_id: int,
    batch_size: int,
    description: str = "Scoring",
) -> NDArray[np.float64]:
    """Scores every label of every prompt: the sum of log P(token) over the label's tokens.

    A prompt, and what many prompts begin with, runs once: `score_continuations`.

    Args:
        model: In eval mode; its own device is used.
        prompts: Token ids, none empty.
        answers: For each prompt the token ids of each label, end-of-turn token included; the
            same number of labels for each prompt.
        pad_id: Any valid token id; it never influences a score.
        batch_size: Sequences per forward pass.
        description: Title of the progress bar; none is shown where it is empty.

    Returns:
        Nats, ``(len(prompts), num_labels)``, in the order of the input.

    Raises:
        ModelError: The model's cache does not consist of plain or sliding-window key-value layers,
            or a score is not finite.
    """
    pairs = [(prompt, ids) for prompt, own in zip(prompts, answers, strict=True) for ids in own]
    with progress_bar(hidden=not description) as progress:
        task = progress.add_task(description, total=len(pairs), note="")
        scores = score_continuations(
            model,
            pairs,
            pad_id=pad_id,
            batch_size=batch_size,
            advance=lambda number: progress.advance(task, number),
        )
    return scores.logprobs.reshape(len(prompts), len(answers[0]) if answers else 0)

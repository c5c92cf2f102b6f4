"""Log-likelihood of given answers, and the check that all log-likelihoods share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from doratune.base.batches import batches, left_padded
from doratune.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from peft import PeftModel
    from transformers import PreTrainedModel


@torch.inference_mode()
def answer_nll(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    *,
    pad_id: int,
    batch_size: int,
    description: str = "Scoring",
) -> NDArray[np.float64]:
    """Mean negative log-likelihood of each reference answer, by one pass over prompt and answer.

    Args:
        model: In eval mode; its own device is used.
        prompts: Token ids, none empty.
        answers: Token ids of the answer to each prompt, end-of-turn token included.
        pad_id: Any valid token id; it never influences the result.
        batch_size: Sequences per forward pass.
        description: Title of the progress bar.

    Returns:
        Nats per answer token, ``(len(prompts),)``, in the order of the input.

    Raises:
        ModelError: A result is not finite.
    """
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    result = np.empty(len(whole))
    for rows in batches([len(ids) for ids in whole], batch_size, description):
        # Padding is on the left, so all answers lie within the last positions.
        keep = max(len(answers[i]) for i in rows) + 1
        batch = left_padded([whole[i] for i in rows], pad_id, model.device)
        logits = model(**batch, use_cache=False, logits_to_keep=keep).logits
        for i, row in zip(rows, logits, strict=True):
            target = torch.tensor(answers[i], device=row.device)
            result[i] = cross_entropy(row[-len(target) - 1 : -1].float(), target).item()
    return checked_finite(result, model)


def checked_finite(
    values: NDArray[np.float64], model: PreTrainedModel | PeftModel
) -> NDArray[np.float64]:
    """The values, if all of them are numbers.

    Raises:
        ModelError: Some are infinite or NaN.
    """
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise ModelError(
            f"{wrong} of {values.size} log-likelihoods are not finite. Either the model overflows "
            f"in {str(model.dtype).removeprefix('torch.')} (set model.dtype: float32), or its "
            "weights are damaged."
        )
    return values

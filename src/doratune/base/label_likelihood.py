"""Log-likelihoods of all labels of a prompt, which is computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from doratune.base.batches import batches, left_padded
from doratune.base.likelihood import checked_finite
from doratune.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from peft import PeftModel
    from transformers import PreTrainedModel

IGNORED = -100


@torch.inference_mode()
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

    A batch of prompts runs once. Its key-value cache is then copied for the labels that are
    longer than one token, ``batch_size`` copies at a time, so that both passes need about the same
    memory. Softmax in float32, sums in float64.

    Args:
        model: In eval mode; its own device is used.
        prompts: Token ids, none empty.
        answers: For each prompt the token ids of each label, end-of-turn token included; the
            same number of labels for each prompt.
        pad_id: Any valid token id; it never influences a score.
        batch_size: Sequences per forward pass.
        description: Title of the progress bar.

    Returns:
        Nats, ``(len(prompts), num_labels)``, in the order of the input.

    Raises:
        ModelError: The model's cache does not consist of plain or sliding-window key-value layers,
            or a score is not finite.
    """
    scores = np.empty((len(prompts), len(answers[0]) if answers else 0))
    for rows in batches([len(prompt) for prompt in prompts], batch_size, description):
        scores[rows] = _score_batch(
            model, [prompts[i] for i in rows], [answers[i] for i in rows], pad_id, batch_size
        )
    return checked_finite(scores, model)


class _Continuation(NamedTuple):
    """A label of more than one token: all but its first remain to be scored."""

    row: int
    label: int
    ids: list[int]


def _score_batch(
    model: PreTrainedModel | PeftModel,
    prompts: list[list[int]],
    answers: list[Sequence[list[int]]],
    pad_id: int,
    batch_size: int,
) -> NDArray[np.float64]:
    batch = left_padded(prompts, pad_id, model.device)
    output = model(**batch, use_cache=True, logits_to_keep=1)
    first_ids = torch.tensor([[ids[0] for ids in row] for row in answers], device=model.device)
    first = output.logits[:, -1].float().log_softmax(-1).gather(1, first_ids)
    scores = first.double().cpu().numpy()

    rest = [
        _Continuation(row, label, ids)
        for row, labels in enumerate(answers)
        for label, ids in enumerate(labels)
        if len(ids) > 1
    ]
    if rest:
        cache = _checked_cache(model, output.get("past_key_values"))
        rest.sort(key=lambda c: len(c.ids))
        for start in range(0, len(rest), batch_size):
            chunk = rest[start : start + batch_size]
            rows, labels = [c.row for c in chunk], [c.label for c in chunk]
            scores[rows, labels] += _continue(
                model, batch, cache, rows, [c.ids for c in chunk], pad_id
            )
    return scores


def _continue(
    model: PreTrainedModel | PeftModel,
    batch: dict[str, Tensor],
    cache: Cache,
    rows: list[int],
    answers: list[list[int]],
    pad_id: int,
) -> NDArray[np.float64]:
    """Log-likelihood of all but the first token of ``answers[i]`` after prompt ``rows[i]``."""
    device = model.device
    ids = _right_padded([answer[:-1] for answer in answers], pad_id, device)
    targets = _right_padded([answer[1:] for answer in answers], IGNORED, device)
    width = ids.shape[1]
    index = torch.tensor(rows, device=device)
    # Padding is on the right here, where no token of a label can see it.
    mask = torch.nn.functional.pad(batch["attention_mask"][index], (0, width), value=1)
    positions = batch["position_ids"][index, -1:] + torch.arange(1, width + 1, device=device)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=_selected(cache, index),
        use_cache=True,
    ).logits
    nll = cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    total: NDArray[np.float64] = -nll.view(targets.shape).double().sum(1).cpu().numpy()
    return total


def _right_padded(sequences: list[list[int]], fill: int, device: torch.device) -> Tensor:
    width = max(map(len, sequences))
    return torch.tensor([s + [fill] * (width - len(s)) for s in sequences], device=device)


def _checked_cache(model: PreTrainedModel | PeftModel, cache: Any) -> Cache:
    """The cache, if rows of it can be copied freely."""
    kinds = {type(layer) for layer in cache.layers} if isinstance(cache, Cache) else {type(cache)}
    strange = sorted(kind.__name__ for kind in kinds - {DynamicLayer, DynamicSlidingWindowLayer})
    if strange:
        raise ModelError(
            f"The model type {model.config.model_type!r} keeps {', '.join(strange)} as its cache; "
            "labels can only be scored on key-value caches (DynamicLayer, "
            "DynamicSlidingWindowLayer). Use a base model with ordinary attention."
        )
    return cache


def _selected(cache: Cache, rows: Tensor) -> Cache:
    """A cache of its own for these rows; the tensors of ``cache`` stay as they are."""
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(rows)
    return selected

"""Log-likelihoods of texts that continue others; what several of them begin with is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from doratune.base.batches import left_padded
from doratune.base.likelihood import checked_finite
from doratune.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from peft import PeftModel
    from transformers import PreTrainedModel

MIN_PREFIX = 32
"""Tokens; a shorter beginning that contexts share is computed for each of them."""
MIN_SAVED = 256
"""Tokens that must be saved in all before a shared beginning is worth a pass of its own."""
MAX_LOGITS = 2048
"""Positions of one pass whose logits are kept: 1 GB in float32 at a vocabulary of 128 k."""

Ids = tuple[int, ...]


class Continuations(NamedTuple):
    """What a model makes of each continuation."""

    logprobs: NDArray[np.float64]
    """Sum of log P(token), nats, ``(n,)``."""
    greedy: NDArray[np.bool_]
    """Whether every token is the most likely one, ``(n,)``."""


class _Task(NamedTuple):
    """One continuation, and where in the input it stands; equal ones are computed once."""

    ids: Ids
    places: list[int]


@torch.inference_mode()
def score_continuations(
    model: PreTrainedModel | PeftModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    pad_id: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda num: None,
) -> Continuations:
    """Scores every continuation after its context.

    A context that has several continuations runs once, and its key-value cache is copied for those of
    more than one token. Contexts that begin alike, such as questions after the same worked examples,
    share the cache of their beginning. Logits are made for the tokens that are scored and no others.
    Softmax in float32, sums in float64.

    Args:
        model: In eval mode; its own device is used.
        pairs: Token ids of context and continuation, none empty.
        pad_id: Any valid token id; it never influences a score.
        batch_size: Sequences per forward pass.
        advance: Told after each batch how many pairs it finished.

    Raises:
        ModelError: The model's cache does not consist of plain or sliding-window key-value layers,
            or a score is not finite.
    """
    logprobs, greedy = np.empty(len(pairs)), np.empty(len(pairs), np.bool_)
    by_context: dict[Ids, dict[Ids, list[int]]] = {}
    for place, (context, continuation) in enumerate(pairs):
        own = by_context.setdefault(tuple(context), {})
        own.setdefault(tuple(continuation), []).append(place)
    sharing = True
    for length, contexts in _groups(sorted(by_context)):
        prefix = None
        if length and sharing:
            prefix = _run_prefix(model, contexts[0][:length])
            sharing = prefix is not None
        for start in range(0, len(contexts), batch_size):
            chunk = contexts[start : start + batch_size]
            tasks = [[_Task(*item) for item in by_context[context].items()] for context in chunk]
            done = 0
            for task, logprob, is_greedy in _score_batch(
                model, chunk, tasks, prefix, length, pad_id, batch_size
            ):
                logprobs[task.places], greedy[task.places] = logprob, is_greedy
                done += len(task.places)
            advance(done)
    return Continuations(checked_finite(logprobs, model), greedy)


def _groups(contexts: list[Ids]) -> Iterator[tuple[int, list[Ids]]]:
    """Contexts that share a beginning worth computing once, and its length; the rest with length 0.

    Args:
        contexts: Sorted, so that those that begin alike are neighbours.

    Yields:
        Each group with its longest contexts first: what does not fit into memory fails at once.
    """
    alone: list[Ids] = []
    group: list[Ids] = []
    length = 0
    for context in contexts:
        if group:
            # At least one token of each context is left to be computed, for its logits.
            common = min(_common(group[-1], context), len(group[-1]) - 1, len(context) - 1)
            common = common if len(group) == 1 else min(common, length)
            if common >= MIN_PREFIX and len(group) * common >= (len(group) - 1) * length:
                group.append(context)
                length = common
                continue
            yield from _closed(group, length, alone)
        group, length = [context], 0
    yield from _closed(group, length, alone)
    if alone:
        yield 0, sorted(alone, key=len, reverse=True)


def _closed(group: list[Ids], length: int, alone: list[Ids]) -> Iterator[tuple[int, list[Ids]]]:
    if (len(group) - 1) * length >= MIN_SAVED:
        yield length, sorted(group, key=len, reverse=True)
    else:
        alone += group


def _common(one: Ids, other: Ids) -> int:
    """Number of tokens that two sequences begin with alike."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def _run_prefix(model: PreTrainedModel | PeftModel, ids: Ids) -> Cache | None:
    """The cache of a beginning; None where it cannot be cut to shorter ones."""
    input_ids = torch.tensor([ids], device=model.device)
    cache = model(input_ids=input_ids, use_cache=True, logits_to_keep=1).get("past_key_values")
    plain = isinstance(cache, Cache) and {type(layer) for layer in cache.layers} == {DynamicLayer}
    return cache if plain else None


def _score_batch(
    model: PreTrainedModel | PeftModel,
    contexts: list[Ids],
    tasks: list[list[_Task]],
    prefix: Cache | None,
    length: int,
    pad_id: int,
    batch_size: int,
) -> Iterator[tuple[_Task, float, bool]]:
    """Scores all continuations of some contexts, of which ``prefix`` holds the first tokens."""
    leads = [_lead(own, MAX_LOGITS // batch_size) for own in tasks]
    whole = [[*context, *lead] for context, lead in zip(contexts, leads, strict=True)]
    batch = left_padded(whole, pad_id, model.device)
    places = [(row, task) for row, own in enumerate(tasks) for task in own]
    left = [task.ids[len(leads[row]) :] for row, task in places]
    cached = 0
    call: dict[str, Any] = {"use_cache": max(map(len, left)) > 1}
    if prefix is not None:
        cached = length
        call = {"use_cache": True, "past_key_values": _padded_prefix(prefix, length, batch)}
    keep = max(map(len, leads)) + 1
    output = model(
        input_ids=batch["input_ids"][:, cached:],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"][:, cached:],
        logits_to_keep=keep,
        **call,
    )
    logits = output.logits[:, -keep:].float()
    of_lead, lead_greedy = _chosen(logits[:, :-1], leads, from_the_right=True)
    # The leads end together, so that what follows each of them is predicted at the last position.
    last = logits[:, -1]
    rows = [row for row, _ in places]
    first = torch.tensor([ids[0] for ids in left], device=model.device)
    logprobs = (last[rows, first] - last.logsumexp(-1)[rows]).double().cpu().numpy() + of_lead[rows]
    greedy = (last.argmax(-1)[rows] == first).cpu().numpy() & lead_greedy[rows]
    rest = sorted((i for i, ids in enumerate(left) if len(ids) > 1), key=lambda i: len(left[i]))
    if rest:
        cache = _checked_cache(model, output.get("past_key_values"))
        for chunk in _chunks(rest, [len(left[i]) - 1 for i in rest], batch_size):
            more, all_greedy = _continue(
                model, batch, cache, [rows[i] for i in chunk], [left[i] for i in chunk], pad_id
            )
            logprobs[chunk] += more
            greedy[chunk] &= all_greedy
    for (_, task), logprob, is_greedy in zip(places, logprobs, greedy, strict=True):
        yield task, float(logprob), bool(is_greedy)


def _lead(tasks: list[_Task], most: int) -> Ids:
    """What all continuations of a context begin with, and do not end with; at most so many tokens.

    It runs with the context: answers such as ``answer1`` and ``answer2`` need no second pass.
    """
    first, last = min(task.ids for task in tasks), max(task.ids for task in tasks)
    shortest = min(len(task.ids) for task in tasks)
    return first[: min(_common(first, last), shortest - 1, most - 1)]


def _chosen(
    logits: Tensor, targets: Sequence[Ids], *, from_the_right: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-likelihood of some tokens, and whether they are the most likely ones.

    Args:
        logits: ``(rows, width, vocabulary)``, float32.
        targets: For each row at most ``width`` tokens, predicted at its first positions.
        from_the_right: They are predicted at its last positions.
    """
    width, device = logits.shape[1], logits.device
    ids = torch.zeros((len(targets), width), dtype=torch.long)
    real = torch.zeros((len(targets), width), dtype=torch.bool)
    for row, own in enumerate(targets):
        at = slice(width - len(own), width) if from_the_right else slice(0, len(own))
        ids[row, at] = torch.tensor(own, dtype=torch.long)
        real[row, at] = True
    ids, real = ids.to(device), real.to(device)
    chosen = logits.gather(2, ids[:, :, None])[:, :, 0] - logits.logsumexp(-1)
    total: NDArray[np.float64] = (chosen.double() * real).sum(1).cpu().numpy()
    greedy: NDArray[np.bool_] = ((logits.argmax(-1) == ids) | ~real).all(1).cpu().numpy()
    return total, greedy


def _padded_prefix(prefix: Cache, length: int, batch: dict[str, Tensor]) -> Cache:
    """The first ``length`` columns of a left-padded batch whose rows all begin with the prefix.

    A row with p tokens of padding has the prefix in the columns from p on. Keys know their position
    already, so that they may stand in any column.
    """
    pads = (batch["attention_mask"] == 0).sum(1)
    columns = (torch.arange(length, device=pads.device) - pads[:, None]).clamp(min=0)
    shifted = copy.copy(prefix)
    shifted.layers = [copy.copy(layer) for layer in prefix.layers]
    for layer in shifted.layers:
        layer.keys = layer.keys[0][:, columns].transpose(0, 1)
        layer.values = layer.values[0][:, columns].transpose(0, 1)
    return shifted


def _continue(
    model: PreTrainedModel | PeftModel,
    batch: dict[str, Tensor],
    cache: Cache,
    rows: list[int],
    continuations: list[Ids],
    pad_id: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """All but the first token of ``continuations[i]`` after context ``rows[i]``."""
    device = model.device
    width = max(map(len, continuations)) - 1
    padded = torch.tensor(
        [[*ids[:-1], *[pad_id] * (width + 1 - len(ids))] for ids in continuations], device=device
    )
    index = torch.tensor(rows, device=device)
    # Padding is on the right here, where no token of a continuation can see it.
    logits = model(
        input_ids=padded,
        attention_mask=pad(batch["attention_mask"][index], (0, width), value=1),
        position_ids=batch["position_ids"][index, -1:] + 1 + torch.arange(width, device=device),
        past_key_values=_selected(cache, index),
        use_cache=True,
    ).logits
    return _chosen(logits.float(), [ids[1:] for ids in continuations])


def _chunks(items: list[int], lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """Items in batches of at most ``batch_size`` rows and `MAX_LOGITS` positions, or of one row."""
    chunk: list[int] = []
    for item, length in zip(items, lengths, strict=True):
        if chunk and (len(chunk) == batch_size or (len(chunk) + 1) * length > MAX_LOGITS):
            yield chunk
            chunk = []
        chunk.append(item)
    yield chunk


def _checked_cache(model: PreTrainedModel | PeftModel, cache: Any) -> Cache:
    """The cache, if rows of it can be copied freely."""
    kinds = {type(layer) for layer in cache.layers} if isinstance(cache, Cache) else {type(cache)}
    strange = sorted(kind.__name__ for kind in kinds - {DynamicLayer, DynamicSlidingWindowLayer})
    if strange:
        raise ModelError(
            f"The model type {model.config.model_type!r} keeps {', '.join(strange)} as its cache; "
            "continuations can only be scored on key-value caches (DynamicLayer, "
            "DynamicSlidingWindowLayer). Use a base model with ordinary attention."
        )
    return cache


def _selected(cache: Cache, rows: Tensor) -> Cache:
    """A cache of its own for these rows; the tensors of ``cache`` stay as they are."""
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(rows)
    return selected

"""A server's answers, read by the trained model and by the bare base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from doratune.adapter.tuned import load_tuned
from doratune.base import load_base
from doratune.progress import track
from doratune.record.run_folder import RunFolder
from doratune.record.verification import ServedAnswer
from doratune.ship.export.in_llama import greedy
from doratune.ship.verification.served_client import CUT, Reply

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_TOKENS = 32
"""Longest answer."""


class Prompt(NamedTuple):
    """A golden prompt."""

    shown: str
    """To people."""
    asked: Any
    """Messages, or a text."""
    ids: list[int]
    """As the server should read it."""


@torch.no_grad()
def read_answers(
    base_path: Path,
    run: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    replies: list[Reply],
    ends: set[int],
) -> list[ServedAnswer]:
    """Lets the trained model and the bare base say their own answers, and read the server's.

    Args:
        base_path: Folder of the base model.
        run: The trained run.
        tokenizer: Of the base.
        prompts: What the server was asked.
        replies: Its answers.
        ends: Tokens that end an answer.
    """
    tuned = load_tuned(base_path, run.adapter, "float32")
    untuned = None if isinstance(tuned, PeftModel) else load_base(base_path, "float32")
    answers = []
    pairs = list(zip(prompts, replies, strict=True))
    for prompt, reply in track(pairs, "Reading the answers", total=len(pairs)):
        own = _own_answer(tuned, tokenizer, prompt, ends)
        with _as_base(tuned, untuned) as base:
            bare = _own_answer(base, tokenizer, prompt, ends)
        ids, whole = _answer_ids(tuned, tokenizer, prompt, reply, ends, (own, bare))
        told = reply.logprobs if whole else (reply.logprobs or [])[: len(ids)]
        read = _read(tuned, prompt, ids, told)
        with _as_base(tuned, untuned) as base:
            read_by_base = _read(base, prompt, ids, told)
        departs = (read.margins > 0).nonzero().flatten().tolist()
        answers.append(
            ServedAnswer(
                prompt=prompt.shown,
                text=reply.text.strip(),
                expected=own.text,
                base=bare.text,
                num_tokens=len(ids),
                departs_at=departs[0] if departs else None,
                margin=_largest(read, own, reply),
                base_margin=_largest(read_by_base, bare, reply),
                logprob_difference=read.difference,
                base_logprob_difference=read_by_base.difference,
            )
        )
    return answers


class _Own(NamedTuple):
    """What a model says itself."""

    text: str
    ids: list[int]
    finished: bool


class _Read(NamedTuple):
    """What a model thinks of the server's answer."""

    margins: Tensor
    """Nats by which it preferred another token, one for each of the answer's."""
    difference: float | None
    """`ServedAnswer.logprob_difference`."""


def _own_answer(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ends: set[int]
) -> _Own:
    ids = greedy(model, prompt.ids, NUM_TOKENS)
    end = next((at for at, token in enumerate(ids) if token in ends), None)
    ids = ids if end is None else ids[: end + 1]
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return _Own(text.rstrip(CUT).strip(), ids, end is not None)


def _answer_ids(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    reply: Reply,
    ends: set[int],
    known: tuple[_Own, ...],
) -> tuple[list[int], bool]:
    """The server's tokens, and whether these are all of them.

    Those that a model chooses need not be those that its text is read to. Where it says bytes that are
    no character, an engine may leave them out: what comes before them is compared.
    """
    text = reply.text.strip()
    for own in known:
        if (own.text, own.finished) == (text, reply.finished):
            return own.ids, True
    for own in known:
        before, cut, _ = own.text.partition(CUT)
        part = tokenizer(before.strip(), add_special_tokens=False).input_ids
        if cut and text.startswith(before.strip()) and own.ids[: len(part)] == part and part:
            return part, False
    ids: list[int] = tokenizer(reply.text, add_special_tokens=False).input_ids
    if not reply.finished:
        return ids, True
    # Which of the ends it was is not told.
    last = model(torch.tensor([prompt.ids + ids])).logits[0, -1]
    return [*ids, max(ends, key=lambda token: last[token].item())], True


def _read(model: Any, prompt: Prompt, ids: list[int], told: list[float] | None) -> _Read:
    if not ids:
        return _Read(torch.zeros(0), None)
    logits = model(torch.tensor([prompt.ids + ids[:-1]])).logits[0, len(prompt.ids) - 1 :]
    log_p = logits.double().log_softmax(-1)
    found = log_p.gather(1, torch.tensor(ids)[:, None])[:, 0]
    return _Read(log_p.max(-1).values - found, _difference(found, told))


def _largest(read: _Read, own: _Own, reply: Reply) -> float | None:
    if len(read.margins):
        return read.margins.max().item()
    return 0.0 if own.text == reply.text.strip() else None


def _difference(found: Tensor, told: list[float] | None) -> float | None:
    """Mean distance of log probabilities; the server may leave out that of the end."""
    if not told or len(told) not in (len(found), len(found) - 1):
        return None
    return (found[: len(told)] - torch.tensor(told).double()).abs().mean().item()


@contextmanager
def _as_base(tuned: Any, untuned: Any) -> Iterator[Any]:
    """The bare base; of a whole fine-tuned model it is another one."""
    if untuned is not None:
        yield untuned
        return
    with tuned.disable_adapter():
        yield tuned

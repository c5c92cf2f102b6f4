"""Sidecar and merged model on the same tokens, both computing in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from doratune.errors import ModelError
from doratune.progress import track

_POSITIONS = 128
"""Positions compared at a time; in float64 and with 150 000 tokens they take 150 MB a copy."""


class LogitFigures(NamedTuple):
    """How far apart two models are, over all positions of all prompts."""

    num_tokens: int
    max_abs_difference: float
    mean_abs_difference: float
    mean_kl: float
    max_kl: float
    top1_agreement: float


def edge_cases(tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[list[int]]:
    """One token, a run of 256, and digits with characters of many scripts."""
    long = "Either party may terminate this agreement by written notice of thirty days. " * 64
    texts = [
        (long, 1),
        (long, 256),
        ("0123456789 3.14159 -1e-7 §§ ≤ ≠ ∞ naïve Straße Ελλάδα Москва 東京 🙂\n\t\u200b", 256),
    ]
    return [
        tokenizer(text, add_special_tokens=False).input_ids[: min(length, max_tokens)]
        for text, length in texts
    ]


@torch.no_grad()
def compare_logits(
    sidecar: PreTrainedModel, merged: PreTrainedModel, prompts: Sequence[list[int]]
) -> LogitFigures:
    """Compares the logits of two models at every position of every prompt.

    Args:
        sidecar: The reference; base and adapter.
        merged: The other, with the same vocabulary, on the same device.
        prompts: Token ids, each at least one.

    Raises:
        ModelError: A model gives logits that are not finite.
    """
    count = agreed = 0
    total_difference = total_kl = max_difference = max_kl = 0.0
    for ids in track(prompts, "Comparing logits", total=len(prompts)):
        batch = torch.tensor([ids], device=merged.device)
        expected_TV, found_TV = sidecar(batch).logits[0], merged(batch).logits[0]
        for p, q in zip(expected_TV.split(_POSITIONS), found_TV.split(_POSITIONS), strict=True):
            difference = (p.double() - q.double()).abs()
            if not difference.isfinite().all():
                raise ModelError(
                    f"Sidecar or merged model gives logits that are not finite for the tokens "
                    f"{ids[:8]} ({len(ids)} in all). Check the base model and the training losses."
                )
            kl = kl_divergence(p, q)
            count += len(p)
            agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
            total_difference += difference.mean(-1).sum().item()
            total_kl += kl.sum().item()
            max_difference = max(max_difference, difference.max().item())
            max_kl = max(max_kl, kl.max().item())
    return LogitFigures(
        num_tokens=count,
        max_abs_difference=max_difference,
        mean_abs_difference=total_difference / count,
        mean_kl=total_kl / count,
        max_kl=max_kl,
        top1_agreement=agreed / count,
    )


def kl_divergence(p_TV: Tensor, q_TV: Tensor) -> Tensor:
    """``KL(softmax(p) || softmax(q))`` of every position in nats, (T,), float64."""
    log_p, log_q = p_TV.double().log_softmax(-1), q_TV.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)

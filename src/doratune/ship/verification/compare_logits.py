"""The logits of two models on the same tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from doratune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_POSITIONS = 128
"""Positions compared at a time; in float64 and with 150 000 tokens they take 150 MB a copy."""


class LogitFigures(NamedTuple):
    """How far apart two models are, over all positions of all prompts.

    The fields of `LogitDifference`, which is written; comparing models needs no pydantic.
    """

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


def logit_limits(roundoff: float) -> dict[str, float]:
    """Limits on two forms of one model of which the coarser has this unit roundoff.

    Derived and measured in `ship.verify`.
    """
    return {"mean_kl": 200 * roundoff**2 + 1e-8, "top1_agreement": 0.99 - 10 * roundoff}


def logit_failures(logits: LogitFigures, limits: dict[str, float]) -> list[str]:
    """A sentence for each limit that is crossed."""
    failures = []
    if logits.mean_kl > limits["mean_kl"]:
        failures.append(
            f"mean_kl is {logits.mean_kl:.3g} nats over {logits.num_tokens} positions; at most "
            f"{limits['mean_kl']:.3g} is allowed."
        )
    if logits.top1_agreement < limits["top1_agreement"]:
        failures.append(
            f"top1_agreement is {logits.top1_agreement:.4f} over {logits.num_tokens} positions; at "
            f"least {limits['top1_agreement']:.4f} is expected."
        )
    return failures


@torch.no_grad()
def compare_logits(reference: Any, other: Any, prompts: Iterable[list[int]]) -> LogitFigures:
    """Compares the logits of two models at every position of every prompt.

    Args:
        reference: Causal language model, such as base and adapter.
        other: The other, with the same vocabulary; it may be on another device.
        prompts: Token ids, each at least one.

    Raises:
        ModelError: A model gives logits that are not finite, or the vocabularies differ.
    """
    count = agreed = 0
    total_difference = total_kl = max_difference = max_kl = 0.0
    for ids in prompts:
        expected_TV, found_TV = _logits(reference, ids), _logits(other, ids)
        if expected_TV.shape != found_TV.shape:
            raise ModelError(
                f"For {len(ids)} tokens the reference gives logits of shape "
                f"{tuple(expected_TV.shape)}, the other model {tuple(found_TV.shape)}. Their "
                "vocabularies differ; they are not forms of one model."
            )
        found_TV = found_TV.to(expected_TV.device)
        for p, q in zip(expected_TV.split(_POSITIONS), found_TV.split(_POSITIONS), strict=True):
            difference = (p.double() - q.double()).abs()
            if not difference.isfinite().all():
                raise ModelError(
                    f"One of the two models gives logits that are not finite for the tokens "
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


def _logits(model: Any, ids: list[int]) -> Tensor:
    found: Tensor = model(torch.tensor([ids], device=model.device)).logits[0]
    return found


def kl_divergence(p_TV: Tensor, q_TV: Tensor) -> Tensor:
    """``KL(softmax(p) || softmax(q))`` of every position in nats, (T,), float64."""
    log_p, log_q = p_TV.double().log_softmax(-1), q_TV.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)

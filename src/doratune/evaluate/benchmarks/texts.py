"""Perplexity of texts that have nothing to do with the task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from doratune.evaluate.metrics.intervals import Resamples
from doratune.record.benchmarks import OutOfDomain, TextSample
from doratune.record.evaluation import MODELS, Model
from doratune.record.files import digest_json


def out_of_domain(source: str, samples: Sequence[TextSample], seed: int) -> OutOfDomain:
    """Perplexity over all tokens of all texts; the ratio is of the same texts.

    Args:
        source: As in the recipe.
        samples: Of both models on the same texts, in any order.
        seed: Of the bootstrap over texts.
    """
    by: dict[Model, list[TextSample]] = {
        model: sorted((s for s in samples if s.model == model), key=lambda s: s.place)
        for model in MODELS
    }
    tokens = np.array([sample.num_tokens for sample in by["base"]], float)
    nll = {model: -np.array([sample.logprob for sample in own]) for model, own in by.items()}
    resamples = Resamples(len(tokens), seed)
    totals = resamples.sums(tokens)
    per_token = {model: resamples.sums(nll[model]) / totals for model in MODELS}
    return OutOfDomain(
        source=source,
        digest=digest_json(sorted(sample.digest for sample in by["base"])),
        num_texts=len(tokens),
        num_tokens=int(tokens.sum()),
        base=resamples.interval(np.exp(per_token["base"])),
        tuned=resamples.interval(np.exp(per_token["tuned"])),
        ratio=resamples.interval(np.exp(per_token["tuned"] - per_token["base"])),
    )

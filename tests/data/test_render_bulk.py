from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from doratune.base import load_tokenizer
from doratune.base.cache import cache_folder
from doratune.data.render import Rendered, Renderer
from doratune.errors import DataError
from doratune.record.schemas import Message
from tests.data.templates import THINKING
from tests.tiny import CHATML, CORPUS, tiny_tokenizer

SMOLLM2 = cache_folder() / "SmolLM2-135M-Instruct-Q4_1"

NASTY = (
    "\n", "\n\n", " ", "  ", "\t", "\r\n", "\u00a0", "\u2028", "\u200b", "▁", "a", "The fox", "12345",
    "é", "e\u0301", "日本", "🙂", "\U0001f468\u200d\U0001f469", "<|im_end|>", "<|im_start|>", "<|im",
    "_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "<filename>", "</s>", "<think>", "\n\ndog",
)  # fmt: skip


def across() -> PreTrainedTokenizerFast:
    """Merges the end of a turn header with the beginning of an answer."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("\ndog", special=False), AddedToken("\na", special=False)])
    return tokenizer


def two_breaks() -> PreTrainedTokenizerFast:
    """Its answers follow two line breaks, which become other tokens when no text follows."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("\n\n", special=False)])
    tokenizer.chat_template = CHATML.replace("assistant\n", "assistant\n\n").replace(
        "message['role'] + '\n'", "message['role'] + '\n\n'"
    )
    return tokenizer


def thinking() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKING
    return tokenizer


def greedy() -> PreTrainedTokenizerFast:
    """Control tokens that swallow white space, as BERT's mask does."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True, lstrip=True, rstrip=True)])
    return tokenizer


def overlapping() -> PreTrainedTokenizerFast:
    """A control token is the end of another token."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("fox<|im_end|>", special=True)])
    return tokenizer


class Lowering(PreTrainedTokenizerFast):
    """Does something of its own before its backend."""

    def __call__(self, text: str, **options: Any) -> Any:
        return super().__call__(text.lower(), **options)


def lowering() -> PreTrainedTokenizerFast:
    plain = tiny_tokenizer()
    tokenizer = Lowering(tokenizer_object=plain.backend_tokenizer, eos_token=plain.eos_token)
    tokenizer.chat_template = plain.chat_template
    return tokenizer


@cache
def sentencepiece(scheme: str) -> PreTrainedTokenizerFast:
    """Puts a space before texts, as the Llama 2 and Mistral tokenizers do."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)  # type: ignore[arg-type]
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)  # type: ignore[arg-type]
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, "\n"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = CHATML
    return fast


@cache
def smollm2() -> PreTrainedTokenizerBase:
    if not SMOLLM2.exists():
        pytest.skip("SmolLM2's tokenizer is not in the cache; `make quickstart` fetches it")
    return load_tokenizer(SMOLLM2)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "tiny": tiny_tokenizer,
    "across": across,
    "two breaks": two_breaks,
    "thinking": thinking,
    "greedy": greedy,
    "overlapping": overlapping,
    "lowering": lowering,
    "space always": lambda: sentencepiece("always"),
    "space first": lambda: sentencepiece("first"),
    "smollm2": smollm2,
}

contents = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=4)), max_size=4).map("".join)


@st.composite
def talks(draw: st.DrawFn) -> list[Message]:
    if draw(st.integers(0, 5)) == 0:
        return [Message(role="assistant", content=draw(contents))]
    talk = [Message(role="system", content=draw(contents))] if draw(st.booleans()) else []
    rounds = draw(st.integers(1, 3))
    for number in range(rounds):
        weight = 0 if number < rounds - 1 and draw(st.booleans()) else None
        talk.append(Message(role="user", content=draw(contents)))
        talk.append(Message(role="assistant", content=draw(contents), weight=weight))
    return talk


def one_by_one(renderer: Renderer, talk: list[Message]) -> Rendered | str:
    try:
        return renderer.example(talk)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("template", ["model", "alpaca"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_many_at_once_are_what_each_is_alone(name: str, template: str) -> None:
    tokenizer = TOKENIZERS[name]()
    alone, bulk = Renderer(tokenizer, template), Renderer(tokenizer, template)  # type: ignore[arg-type]

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(st.lists(talks(), min_size=1, max_size=4))
    def check(batch: list[list[Message]]) -> None:
        expected = [one_by_one(alone, talk) for talk in batch]
        problems = [problem for problem in expected if isinstance(problem, str)]
        if problems:
            with pytest.raises(DataError) as refusal:
                bulk.examples([(talk, None) for talk in batch])
            assert str(refusal.value) in problems
            batch = [t for t, e in zip(batch, expected, strict=True) if not isinstance(e, str)]
        found = bulk.examples([(talk, None) for talk in batch])
        assert found == [rendered for rendered in expected if not isinstance(rendered, str)]

    check()

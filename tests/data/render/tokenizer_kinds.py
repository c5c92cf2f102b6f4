"""Tokenizers that treat the places between turns and answers in different ways."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from doratune.base import load_tokenizer
from doratune.base.cache import cache_folder
from tests.data.render.templates import THINKING
from tests.tiny import CHATML, CORPUS, tiny_tokenizer

SMOLLM2 = cache_folder() / "SmolLM2-135M-Instruct-Q4_1"


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


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_as_llama3() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
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
    "split as Llama 3": split_as_llama3,
    "space always": lambda: sentencepiece("always"),
    "space first": lambda: sentencepiece("first"),
    "smollm2": smollm2,
}

"""Tiny tokenizers split the way the great families do, trained on a few sentences."""

from __future__ import annotations

import json
import random

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tests.tiny import CHATML, CORPUS

TEXTS = [
    "The supplier's liability shall not exceed 12345 euros; we'll see, it's '99.",
    "Digits 3.14159 -1e-7 §§ ≤ ≠ naïve Straße Ελλάδα Москва 東京 🙂 \n\n\t x  y   z\r\n",
    "  leading and trailing  ",
    "don't DON'T I'LL I'Ve",
    "<|im_start|>user\nWhat?<|im_end|>\n",
]
JUMBLED = "".join(random.Random(0).choices("eethiinnlaocr uts", k=600))
"""Letters in which one merge takes another its letters: the order of merges decides."""

# As Meta-Llama-3-8B, Qwen2-7B and Mistral-Nemo-Base-2407 have it in their tokenizer.json.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip


def _bytes() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


BYTE_LEVEL = {
    "gpt-2": (_bytes(), False),
    "smollm": (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _bytes()]),
        False,
    ),
    "llama-bpe": (_split(LLAMA3), True),
    "dbrx": (_split(LLAMA3), False),
    "qwen2": (_split(QWEN2), False),
    "tekken": (_split(TEKKEN), True),
}


def byte_level(kind: str, size: int = 420) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the named way of splitting."""
    splitter, whole_words = BYTE_LEVEL[kind]
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [*CORPUS, *TEXTS[:4]],
        trainers.BpeTrainer(
            vocab_size=size - 2,
            special_tokens=["<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return _fast(tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")


def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same with ``<|im_start|>`` put before every text."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    tokenizer.bos_token = "<|im_start|>"
    return tokenizer


def sentencepiece(size: int = 600) -> PreTrainedTokenizerFast:
    """Llama 2's kind: spaces as ▁, bytes as tokens, no pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"),
    ])  # fmt: skip
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [word for text in [*CORPUS, *TEXTS[:4]] for word in text.split()]
    tokenizer.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False)
    )
    state = Tokenizer.from_str(_without_special(tokenizer.to_str()))
    state.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return _fast(state, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")


def _without_special(text: str) -> str:
    """Bytes are ordinary tokens in tokenizer.json; only the first three are special."""
    state = json.loads(text)
    state["added_tokens"] = state["added_tokens"][:3]
    return json.dumps(state)


def _fast(tokenizer: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)
    fast.chat_template = CHATML
    return fast

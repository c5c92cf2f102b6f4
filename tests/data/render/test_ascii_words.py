from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from doratune.data.render.ascii_words import ascii_words
from tests.data.render.tokenizer_kinds import TOKENIZERS
from tests.tiny import tiny_tokenizer

TEXTS = ("", "The fox's fee,\n\n  12345 days\t(or so) !?", "I'LL don't 'tis\r\n\r\n x  ", "  " * 9)


@pytest.mark.parametrize("name", ["tiny", "split as Llama 3", "smollm2"])
def test_the_ids_are_the_tokenizers_own(name: str) -> None:
    backend = TOKENIZERS[name]().backend_tokenizer
    words = ascii_words(backend)
    assert words is not None
    for text in [*TEXTS, *TEXTS]:
        assert words.ids(text) == backend.encode(text, add_special_tokens=False).ids


def test_other_texts_are_left_to_the_tokenizer() -> None:
    words = ascii_words(tiny_tokenizer().backend_tokenizer)
    assert words is not None
    for text in ("é", "a\u00a0b", "a\x0bb", "\x1c", "ends <|im_end|>", "<|im_start|>"):
        assert words.ids(text) is None
    assert words.ids("<|im_en|") is not None


def test_what_the_expression_leaves_out_is_not_forgotten() -> None:
    def letters_alone(backend: Tokenizer) -> None:
        split = pre_tokenizers.Split(Regex(r"\p{L}+"), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])

    words = ascii_words(changed(letters_alone))
    assert words is not None
    assert words.ids("fox")
    assert words.ids("fox 1") is None


def changed(change: Callable[[Tokenizer], None]) -> Tokenizer:
    backend = tiny_tokenizer().backend_tokenizer
    change(backend)
    return backend


def lower(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.Lowercase()


def prefix(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def unknown(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.Whitespace()


def nothing(backend: Tokenizer) -> None:
    backend.pre_tokenizer = None


def misread(backend: Tokenizer) -> None:
    """Its expression means something else here: Python's ``$`` also stands before a last line end."""
    split = pre_tokenizers.Split(Regex(r"\w+$|[\s\S]"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])


def other_model(backend: Tokenizer) -> None:
    backend.model = models.WordLevel({"<|im_start|>": 0, "<|im_end|>": 1, "x": 2}, unk_token="x")


@pytest.mark.parametrize("change", [lower, prefix, unknown, nothing, misread, other_model])
def test_tokenizers_of_another_kind_are_not_taken(change: Callable[[Tokenizer], None]) -> None:
    assert ascii_words(changed(change)) is None

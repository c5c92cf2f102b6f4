"""Byte-level BPE of plain ASCII text, word by word, each different word once.

Such tokenizers split a text into words and merge within each, so that a word always has the same
ids. Nearly all of their time goes into the splitting and into following every character; on ASCII
text one regular expression does the same: 40 instead of 240 microseconds for the 161 tokens of an
instruction and its answer (SmolLM2, one core of an AMD EPYC).
"""

from __future__ import annotations

import json
import random
import re
import string
from typing import Any

from tokenizers import Tokenizer

_ORDINARY = string.printable.replace("\x0b", "").replace("\x0c", "")
_ORDINARY_BYTES = _ORDINARY.encode()

# What byte-level tokenizers write for these characters.
_BYTE_LEVEL = str.maketrans({" ": "Ġ", "\n": "Ċ", "\t": "ĉ", "\r": "č"})

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Digits are taken out one by one before that, and nothing looks past them.
_DIGITS_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

# Unicode's classes within ASCII.
_CLASSES = {
    "L": "A-Za-z",
    "Lu": "A-Z",
    "Ll": "a-z",
    "N": "0-9",
    "M": "",
    "Lm": "",
    "Lo": "",
    "Lt": "",
}

# An English file has about 100,000 different words, at 150 bytes each.
_MAX_WORDS, _MAX_WORD = 1 << 17, 64


class AsciiWords:
    """Gives the ids of ASCII texts. Make it with `ascii_words`."""

    def __init__(self, backend: Tokenizer, words: re.Pattern[str]) -> None:
        self._model = backend.model
        self._words = words
        added = [re.escape(token.content) for token in backend.get_added_tokens_decoder().values()]
        self._added = re.compile("|".join(added) or r"(?!)")
        self._known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int] | None:
        """Ids of a text; None where it is not plain ASCII, or spells out an added token."""
        if not text.isascii() or text.encode().translate(None, _ORDINARY_BYTES):
            return None
        if self._added.search(text):
            return None
        ids: list[int] = []
        size = 0
        for word in self._words.findall(text):
            size += len(word)
            ids += self._known.get(word) or self._new(word)
        return ids if size == len(text) else None

    def _new(self, word: str) -> list[int]:
        ids = [token.id for token in self._model.tokenize(word.translate(_BYTE_LEVEL))]
        if len(word) <= _MAX_WORD:
            if len(self._known) == _MAX_WORDS:
                self._known.clear()
            self._known[word] = ids
        return ids


def ascii_words(backend: Tokenizer) -> AsciiWords | None:
    """The quick way for a tokenizer; None where it is of another kind.

    That it gives the tokenizer's own ids is tried out on every pair of characters and on 500 random
    texts, in about a tenth of a second.
    """
    settings = json.loads(backend.to_str())
    pattern = _pattern(settings["pre_tokenizer"])
    plain = (settings["normalizer"] or {"type": "NFC"})["type"] in ("NFC", "NFD", "NFKC", "NFKD")
    if pattern is None or not plain or settings["model"]["type"] != "BPE":
        return None
    try:
        words = AsciiWords(backend, re.compile(pattern, re.ASCII))
    except re.error:
        return None
    texts = [text for text in _samples() if words.ids(text) is not None]
    encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
    same = all(words.ids(text) == e.ids for text, e in zip(texts, encoded, strict=True))
    return words if same else None


def _pattern(settings: dict[str, Any] | None) -> str | None:
    """The expression by which a pre-tokenizer splits ASCII text; None for kinds not known here."""
    steps = (settings or {}).get("pretokenizers") or [settings or {"type": None}]
    kinds = [step["type"] for step in steps]
    if kinds[-1] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    whole = steps[-1].get("use_regex", True)
    if kinds == ["ByteLevel"] and whole:
        return _in_ascii(_GPT2)
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and whole:
        return _in_ascii(_DIGITS_GPT2)
    if kinds == ["Split", "ByteLevel"] and not whole and "Regex" in steps[0]["pattern"]:
        return _in_ascii(steps[0]["pattern"]["Regex"])
    return None


def _in_ascii(pattern: str) -> str | None:
    """A pattern without Unicode classes; None where one is not known here."""
    parts, inside = [], False
    for part in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        if part.startswith(r"\p"):
            members = _CLASSES.get(part[3:-1])
            if members is None:
                return None
            parts.append(members if inside else f"[{members}]" if members else "(?!)")
            continue
        inside = part == "[" or (inside and part != "]")
        parts.append(part)
    return "".join(parts)


def _samples() -> list[str]:
    pairs = ["".join(one + two for two in _ORDINARY) for one in _ORDINARY]
    draw = random.Random(0)
    common = "".join(("aAsStTrevml" * 3, "0123456789", "     \n\n\n\t\r", "''\".,;-_/(<|>)"))
    return pairs + ["".join(draw.choices(common, k=40)) for _ in range(500)]

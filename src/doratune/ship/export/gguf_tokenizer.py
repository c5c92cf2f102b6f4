"""A fast tokenizer as llama.cpp's keys: vocabulary, merges or scores, pre-tokenizer, template.

llama.cpp has the splitting of text into words in its own code, under names. `PRE_TOKENIZERS` gives the
name of a definition in tokenizer.json. One that is not in the table is refused: under a wrong name
text would be read as other tokens, and nothing would say so.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gguf import GGUFWriter, TokenType

from doratune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Splits(NamedTuple):
    """How a byte-level tokenizer splits text before it merges."""

    steps: tuple[str, ...]
    """``digits``, ``bytes`` (GPT-2's own pattern) or ``split:`` with the pattern."""
    whole_words_first: bool
    """``ignore_merges``: a word that is in the vocabulary is one token, whatever the merges say."""


PRE_TOKENIZERS = {
    _Splits(("bytes",), False): "gpt-2",
    _Splits(("digits", "bytes"), False): "smollm",
    _Splits((f"split:{_WORDS}\\p{{N}}{{1,3}}{_REST}",), True): "llama-bpe",
    _Splits((f"split:{_WORDS}\\p{{N}}{{1,3}}{_REST}",), False): "dbrx",
    _Splits((f"split:{_WORDS}\\p{{N}}{_REST}",), False): "qwen2",
    _Splits((f"split:{_TEKKEN}",), True): "tekken",
}
"""llama.cpp's name for each; the patterns are those of its src/llama-vocab.cpp."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "▁"  # SentencePiece's sign for a space


def add_tokenizer(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, folder: Path, size: int
) -> None:
    """Writes the tokenizer and the chat template.

    Args:
        writer: Before its header is written.
        tokenizer: A fast one.
        folder: Where it came from, for messages.
        size: Rows of the embedding; ids beyond the vocabulary get unused names.

    Raises:
        ModelError: llama.cpp has no such tokenizer, or it has more tokens than the embedding has rows.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "BPE":
        raise ModelError(
            f"The tokenizer in {folder} is of the type {state['model']['type']}; GGUF files are written "
            "for byte pair encoding (BPE). Export it as a merged folder (--to merged)."
        )
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values()) >= size:
        raise ModelError(
            f"The tokenizer in {folder} has the id {max(vocabulary.values())}, but the embedding has "
            f"{size} rows. Tokenizer and weights belong to different models."
        )
    tokens = [f"[PAD{i}]" for i in range(size)]
    for token, number in vocabulary.items():
        tokens[number] = token
    kinds = _kinds(state, tokens, set(vocabulary.values()), tokenizer.unk_token)
    if state["model"].get("byte_fallback"):
        _add_sentencepiece(writer, state, tokens, folder)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer(state, folder))
        writer.add_token_merges([_merge(pair) for pair in state["model"]["merges"]])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _add_special(writer, tokenizer, folder)


def pre_tokenizer(state: dict[str, Any], folder: Path) -> str:
    """llama.cpp's name for the pre-tokenizer of a ``tokenizer.json``.

    Raises:
        ModelError: It is none that `PRE_TOKENIZERS` knows.
    """
    definition = state["pre_tokenizer"] or {"type": "none"}
    parts = definition.get("pretokenizers", [definition])
    steps = tuple(filter(None, map(_step, parts)))
    splits = _Splits(steps, bool(state["model"].get("ignore_merges")))
    if splits not in PRE_TOKENIZERS:
        raise ModelError(
            f"The tokenizer in {folder} splits text by {json.dumps(definition, ensure_ascii=False)} "
            f"with ignore_merges {splits.whole_words_first}; llama.cpp's name for it is not known "
            f"here. Known are those of {', '.join(PRE_TOKENIZERS.values())}. Export it as a merged "
            "folder (--to merged) and use the converter of llama.cpp."
        )
    return PRE_TOKENIZERS[splits]


def _step(part: dict[str, Any]) -> str:
    """One pre-tokenizer in a form that can be compared; empty for one that does not split."""
    if part["type"] == "ByteLevel" and not part.get("add_prefix_space"):
        return "bytes" if part.get("use_regex", True) else ""
    if part["type"] == "Digits" and part.get("individual_digits"):
        return "digits"
    if part["type"] == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        return f"split:{part['pattern'].get('Regex')}"
    return json.dumps(part, sort_keys=True)


def _merge(pair: str | list[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def _kinds(
    state: dict[str, Any], tokens: list[str], used: set[int], unknown: str | None
) -> list[TokenType]:
    kinds = [TokenType.NORMAL if i in used else TokenType.UNUSED for i in range(len(tokens))]
    if state["model"].get("byte_fallback"):
        for i, token in enumerate(tokens):
            if _BYTE.fullmatch(token):
                kinds[i] = TokenType.BYTE
    for added in state["added_tokens"]:
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if state["model"].get("byte_fallback") and unknown in tokens:
        kinds[tokens.index(unknown)] = TokenType.UNKNOWN
    return kinds


def _add_sentencepiece(
    writer: GGUFWriter, state: dict[str, Any], tokens: list[str], folder: Path
) -> None:
    """Llama 2's and Mistral's kind: no pre-tokenizer, and scores in place of merges.

    llama.cpp joins the neighbours whose union has the highest score; in tokenizer.json it is the merge
    that comes first. The score of a token is therefore the negative rank of its first merge.
    """
    normalizer = json.dumps(state["normalizer"] or {})
    splitter = state["pre_tokenizer"] or {"type": "none"}
    prefix = '"Prepend"' in normalizer or splitter.get("prepend_scheme") in ("first", "always")
    if _SPACE not in json.dumps([state["normalizer"], splitter], ensure_ascii=False):
        raise ModelError(
            f"The tokenizer in {folder} has byte fallback but does not write spaces as {_SPACE!r}, as "
            "SentencePiece does; llama.cpp has no such tokenizer. Export it as a merged folder (--to "
            "merged)."
        )
    scores = dict.fromkeys(tokens, 0.0)
    for rank, pair in enumerate(state["model"]["merges"]):
        first, second = pair.split(" ") if isinstance(pair, str) else pair
        if not scores[first + second]:
            scores[first + second] = -(rank + 1.0)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([scores[token] for token in tokens])
    writer.add_add_space_prefix(prefix)


def _add_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    ends = end_tokens(tokenizer, folder)
    if len(ends) > 1:
        writer.add_eot_token_id(ends[1])
    # What the tokenizer puts around a text by itself is seen on a text.
    plain, whole = (
        tokenizer("a", add_special_tokens=special).input_ids for special in (False, True)
    )
    writer.add_add_bos_token(len(whole) > len(plain) and whole[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(whole) > len(plain) and whole[-1] == tokenizer.eos_token_id)
    if tokenizer.chat_template:
        template = tokenizer.chat_template
        if isinstance(template, dict):
            template = [{"name": name, "template": text} for name, text in template.items()]
        writer.add_chat_template(template)


def end_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[int]:
    """Ids that end an answer: the tokenizer's own, and further ones of generation_config.json."""
    file = folder / "generation_config.json"
    listed = (
        json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    )
    more = listed if isinstance(listed, list) else [listed]
    return list(dict.fromkeys(i for i in [tokenizer.eos_token_id, *more] if i is not None))

"""Many texts to token ids at once, only where that gives the same ids as one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from doratune.data.render.ascii_words import ascii_words

_SAMPLES = ("x", " x", "x ", "\n\nX", "É\n", "▁x")


class CutIds(NamedTuple):
    """Ids of a text that is cut into pieces at given places."""

    ids: list[int]
    cuts: list[int]
    """Index of the first token behind each cut."""


class BulkTokenizer:
    """Tokenises texts in pieces between control tokens, each different piece once.

    What stands between two control tokens is tokenised the same wherever it stands, so that the
    turn headers, system prompts and labels that a batch has in common cost nothing.

    Args:
        tokenizer: The base model's.
        control_tokens: Those that the chat template writes, and the end-of-sequence token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control_tokens: Iterable[str]) -> None:
        self._backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is None or not self._same_as(tokenizer):
            self._backend = None
            return
        self._ascii = ascii_words(self._backend)
        control = [t for t in sorted(control_tokens) if self._stands_alone(tokenizer, t)]
        self._control_ids = {token: self._backend.token_to_id(token) for token in control}
        either = "|".join(map(re.escape, control)) or r"(?!)"
        self._control = re.compile(either)
        self._between = re.compile(f"(?={either})")

    def cut_ids(self, texts: Sequence[tuple[str, list[int]]]) -> list[CutIds | None]:
        """Tokenises texts, each with the places to cut it at, in characters, ascending.

        Returns:
            None for a text whose pieces, tokenised one after the other, have other ids than the
            text as a whole: some tokenizers join what stands on both sides of a cut.
        """
        if self._backend is None:
            return [None] * len(texts)
        pieces: dict[str, int] = {}
        plans = [self._plan(text, cuts, pieces) for text, cuts in texts]
        ids = self._all_ids(list(pieces))
        return [_assembled(plan, ids) for plan in plans]

    def _plan(
        self, text: str, cuts: list[int], pieces: dict[str, int]
    ) -> list[tuple[int, list[int]]]:
        """Numbers of the pieces of a text and, for each, of what stands in it before its cuts."""
        plan, at, done = [], 0, 0
        for piece in self._between.split(text):
            until = at + len(piece)
            heads = []
            while done < len(cuts) and cuts[done] < until:
                heads.append(pieces.setdefault(piece[: cuts[done] - at], len(pieces)))
                done += 1
            plan.append((pieces.setdefault(piece, len(pieces)), heads))
            at = until
        return plan

    def _all_ids(self, pieces: list[str]) -> list[list[int]]:
        found = [self._quick_ids(piece) for piece in pieces]
        rest = [piece for piece, ids in zip(pieces, found, strict=True) if ids is None]
        assert self._backend is not None
        self._backend.no_truncation()
        self._backend.no_padding()
        encoded = iter(self._backend.encode_batch_fast(rest, add_special_tokens=False))
        return [next(encoded).ids if ids is None else ids for ids in found]

    def _quick_ids(self, piece: str) -> list[int] | None:
        if self._ascii is None:
            return None
        control = self._control.match(piece)
        if control is None:
            return self._ascii.ids(piece)
        ids = self._ascii.ids(piece[control.end() :])
        return None if ids is None else [self._control_ids[control[0]], *ids]

    def _ids(self, text: str) -> list[int]:
        assert self._backend is not None
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _same_as(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether the tokenizer adds nothing of its own to what its backend does."""
        end = tokenizer.eos_token or ""
        texts = [f"{one}{end}{two}" for one in _SAMPLES for two in _SAMPLES]
        return all(
            tokenizer(text, add_special_tokens=False, verbose=False).input_ids == self._ids(text)
            for text in texts
        )

    def _stands_alone(self, tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
        """Whether a token has no influence on how its neighbours are tokenised, nor they on it.

        Some swallow white space beside them, or count only between words, or a space is put before
        whatever follows them; the samples show that.
        """
        added = {added.content for added in tokenizer.added_tokens_decoder.values()}
        if token not in added or any(_overlap(token, other) for other in added):
            return False
        return all(
            self._ids(one + token + two) == self._ids(one) + self._ids(token + two)
            for one in _SAMPLES
            for two in _SAMPLES
        )


def _overlap(token: str, other: str) -> bool:
    """Whether an occurrence of one could share characters with an occurrence of the other."""
    if token != other and (token in other or other in token):
        return True
    return any(
        token.endswith(other[:size]) or other.endswith(token[:size])
        for size in range(1, min(len(token), len(other)))
    )


def _assembled(plan: list[tuple[int, list[int]]], ids: list[list[int]]) -> CutIds | None:
    whole: list[int] = []
    cuts: list[int] = []
    for piece, heads in plan:
        for head in heads:
            size = len(ids[head])
            if ids[piece][:size] != ids[head]:
                return None
            cuts.append(len(whole) + size)
        whole += ids[piece]
    return CutIds(whole, cuts)

"""Conversations to token ids, with the tokens to learn marked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from doratune.data.render.bulk import BulkTokenizer, CutIds
from doratune.data.render.probes import REPLY
from doratune.data.render.spoken import Spoken, Tools, alpaca, is_plain, plain
from doratune.data.render.template import ChatTemplate
from doratune.errors import ConfigError
from doratune.record.schemas import Message

IGNORED = -100
"""Label of a token that is not trained on; PyTorch's default ``ignore_index``."""


# More would not be faster, and an encoded token takes 100 bytes until its batch is done.
_AT_ONCE = 1000


class Rendered(NamedTuple):
    """One example as the model sees it."""

    input_ids: list[int]
    labels: list[int]
    """The token itself where it is trained on, else -100. Same length, not shifted."""


class Renderer:
    """Renders conversations one way for training, evaluation and verification.

    The ids of ``example(messages)`` are those of ``prompt(messages[:-1])`` and then those of
    ``answer(messages[:-1], messages[-1])``, also where the tokenizer would merge the prompt's last
    character with the answer's first. The end-of-turn token belongs to the answer; what a template
    writes after it (ChatML's line break) is left out at the end.

    One assistant turn alone is plain text: it is rendered without any template, and ends with the
    end-of-sequence token.

    Args:
        tokenizer: The base model's.
        template: ``"model"`` for the tokenizer's chat template, ``"alpaca"`` for the plain
            instruction/response form.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Literal["model", "alpaca"] = "model"
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template

    def example(self, messages: Sequence[Message], tools: Tools = None) -> Rendered:
        """Renders a whole conversation; every assistant turn is trained on unless its weight is 0.

        Args:
            messages: The turns.
            tools: JSON schemas of the tools the conversation may use.

        Raises:
            DataError: The template cannot render the conversation.
            ConfigError: The tokenizer has no template, or no token to end an answer with.
        """
        ids: list[int] = []
        labels: list[int] = []
        for learned, piece in self._pieces(messages, tools):
            ids += piece
            labels += piece if learned else [IGNORED] * len(piece)
        return Rendered(ids, labels)

    def examples(self, batch: Sequence[tuple[Sequence[Message], Tools]]) -> list[Rendered]:
        """Renders many conversations: exactly what ``example`` makes of each, several times faster.

        Args:
            batch: Turns and tools of each.

        Raises:
            DataError: As for the first conversation that cannot be rendered.
            ConfigError: As for ``example``.
        """
        slices = range(0, len(batch), _AT_ONCE)
        return [one for at in slices for one in self._examples(batch[at : at + _AT_ONCE])]

    def _examples(self, batch: Sequence[tuple[Sequence[Message], Tools]]) -> list[Rendered]:
        spoken = self._spoken_all(batch)
        texts = [(text[: spans[-1][1]], _inner_cuts(spans)) for text, spans in spoken]
        cut_ids = self._bulk.cut_ids(texts)
        return [
            self.example(messages, tools) if cut is None else _labelled(cut, self._head(messages))
            for (messages, tools), cut in zip(batch, cut_ids, strict=True)
        ]

    def lengths(self, batch: Sequence[tuple[Sequence[Message], Tools]]) -> list[int]:
        """Tokens of many conversations; otherwise as ``examples``."""
        return [len(rendered.input_ids) for rendered in self.examples(batch)]

    def prompt(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """Renders all turns up to where the assistant must answer.

        Raises:
            DataError: The template cannot render the conversation.
            ConfigError: As for ``example``.
        """
        pieces = self._pieces([*messages, REPLY], tools)
        return [token for _, piece in pieces[:-1] for token in piece]

    def answer(
        self, prompt: Sequence[Message], answer: str | Message, tools: Tools = None
    ) -> list[int]:
        """Renders an answer: the ids that follow ``self.prompt(prompt)``, end-of-turn included.

        Raises:
            DataError: The template cannot render the conversation.
            ConfigError: As for ``example``.
        """
        if isinstance(answer, str):
            answer = Message(role="assistant", content=answer)
        return self._pieces([*prompt, answer], tools)[-1][1]

    @property
    def end_of_turn(self) -> str:
        """The token that ends an answer.

        Raises:
            ConfigError: There is none, or the tokenizer has no chat template.
        """
        return self._eos if self.template == "alpaca" else self._chat.end

    def require_template(self) -> None:
        """Fails now rather than at the first conversation; plain text needs no template.

        Raises:
            ConfigError: As for ``end_of_turn``.
        """
        assert self.end_of_turn

    @property
    def prefix_problem(self) -> str | None:
        """How the chat template changes turns once others follow; None where it does not.

        Raises:
            ConfigError: As for ``end_of_turn``.
        """
        return None if self.template == "alpaca" else self._chat.prefix_problem

    def _pieces(self, messages: Sequence[Message], tools: Tools) -> list[tuple[bool, list[int]]]:
        """Ids of what stands before, and of, each answer in turn, and whether it is learnt."""
        text, spans = self._spoken(messages, tools)
        pieces = [(False, self._head(messages))]
        ids: list[int] = []
        done = 0
        for start, end in spans:
            for stop, learned in ((start, False), (end, True)):
                piece = self._continue(text[:done], ids, text[done:stop])
                pieces.append((learned, piece))
                ids, done = ids + piece, stop
        return pieces

    def _continue(self, before: str, ids: list[int], more: str) -> list[int]:
        """Ids of the text ``more`` that follows ``before``, whose ids are ``ids``.

        The two are tokenised together, since some tokenizers put a space before whatever they are
        given; but not where that would change the ids of what stands before.
        """
        together = self._ids(before + more)
        return together[len(ids) :] if together[: len(ids)] == ids else self._ids(more)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def _spoken(self, messages: Sequence[Message], tools: Tools) -> Spoken:
        if is_plain(messages):
            return plain(messages, self._eos)
        if self.template == "alpaca":
            return alpaca(messages, tools, self._eos)
        return self._chat.spoken(messages, tools)

    def _spoken_all(self, batch: Sequence[tuple[Sequence[Message], Tools]]) -> list[Spoken]:
        if self.template == "alpaca" or any(is_plain(messages) for messages, _ in batch):
            return [self._spoken(messages, tools) for messages, tools in batch]
        return self._chat.spoken_all(batch)

    def _head(self, messages: Sequence[Message]) -> list[int]:
        """What begins a text that is not made by the chat template, which writes its own BOS."""
        return self._bos if self.template == "alpaca" or is_plain(messages) else []

    @cached_property
    def _chat(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer)

    @cached_property
    def _bulk(self) -> BulkTokenizer:
        special = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        written = str(self.tokenizer.chat_template)
        return BulkTokenizer(
            self.tokenizer, [t for t in special if t in written or t == self.tokenizer.eos_token]
        )

    @cached_property
    def _bos(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("").input_ids[:1] == [bos] else []

    @property
    def _eos(self) -> str:
        eos: str | None = self.tokenizer.eos_token
        if eos is None:
            raise ConfigError(
                f"The tokenizer has no eos_token to end an answer with, which plain text and "
                f"data.template 'alpaca' need (data.template is {self.template!r}). Use "
                "conversations and data.template: model."
            )
        return eos


def _inner_cuts(spans: list[tuple[int, int]]) -> list[int]:
    """Where learnt text begins and ends, but for the end of the text."""
    return [place for span in spans for place in span][:-1]


def _labelled(cut: CutIds, head: list[int]) -> Rendered:
    ids = cut.ids
    labels = [IGNORED] * len(ids)
    edges = [*cut.cuts, len(ids)]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        labels[start:end] = ids[start:end]
    return Rendered(head + ids, [IGNORED] * len(head) + labels)

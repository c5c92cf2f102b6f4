"""Conversations to token ids, with the tokens to learn marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase

from doratune.errors import ConfigError, DataError
from doratune.record.schemas import Message

IGNORED = -100
"""Label of a token that is not trained on; PyTorch's default ``ignore_index``."""

ALPACA_PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request. \n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)

_PROBE = [Message(role="user", content="question"), Message(role="assistant", content="reply-7f3a")]


class Rendered(NamedTuple):
    """One example as the model sees it."""

    input_ids: list[int]
    labels: list[int]
    """The token itself where it is trained on, else -100. Same length, not shifted."""


class Renderer:
    """Renders conversations one way for training, evaluation and verification.

    The ids of ``example(messages)`` are those of ``prompt(messages[:-1])`` and then those of
    ``answer(messages[:-1], messages[-1].content)``, also where the tokenizer would merge the
    prompt's last character with the answer's first. The end-of-turn token belongs to the answer;
    what a template writes after it (ChatML's line break) is left out at the end.

    Args:
        tokenizer: The base model's.
        template: ``"model"`` for the tokenizer's chat template, ``"alpaca"`` for the plain
            instruction/response form.

    Raises:
        ConfigError: The tokenizer has no chat template, the template does not close an answer with
            a special token, or the tokenizer has no end-of-sequence token for ``"alpaca"``.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Literal["model", "alpaca"] = "model"
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._head: list[int] = []
        if template == "alpaca":
            if tokenizer.eos_token is None:
                raise ConfigError(
                    "data.template is 'alpaca', but the tokenizer has no eos_token to end an "
                    "answer with. Use data.template: model."
                )
            # Alpaca text names no special token, so a BOS that the model expects must be added.
            bos = tokenizer.bos_token_id
            if bos is not None and tokenizer("").input_ids[:1] == [bos]:
                self._head = [bos]
            self._end: str = tokenizer.eos_token
        else:
            if not tokenizer.chat_template:
                raise ConfigError(
                    "data.template is 'model', but the tokenizer of this base has no chat "
                    "template. Use data.template: alpaca, or a base that was tuned for chat."
                )
            self._end = self._end_of_turn()

    def example(self, messages: Sequence[Message]) -> Rendered:
        """Renders a whole conversation; every assistant turn is trained on.

        Raises:
            DataError: The template cannot render the conversation.
        """
        ids: list[int] = []
        labels: list[int] = []
        for learned, piece in self._pieces(messages):
            ids += piece
            labels += piece if learned else [IGNORED] * len(piece)
        return Rendered(ids, labels)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Renders all turns up to where the assistant must answer.

        Raises:
            DataError: The template cannot render the conversation.
        """
        pieces = self._pieces([*messages, _PROBE[1]])
        return [token for _, piece in pieces[:-1] for token in piece]

    def answer(self, prompt: Sequence[Message], text: str) -> list[int]:
        """Renders an answer: the ids that follow ``self.prompt(prompt)``, end-of-turn included.

        Raises:
            DataError: The template cannot render the conversation.
        """
        return self._pieces([*prompt, Message(role="assistant", content=text)])[-1][1]

    def _pieces(self, messages: Sequence[Message]) -> list[tuple[bool, list[int]]]:
        """Ids of what stands before, and of, each answer in turn, and whether it is learnt."""
        text, spans = self._text(messages)
        ids, done = self._head, 0
        pieces = [(False, ids)]
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
        together = self._head + self._ids(before + more)
        return together[len(ids) :] if together[: len(ids)] == ids else self._ids(more)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def _text(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and where in it each answer begins and its end token ends."""
        if self.template == "alpaca":
            return self._alpaca_text(messages)
        text = self._apply(messages)
        spans: list[tuple[int, int]] = []
        for turn, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._apply(messages[:turn], add_generation_prompt=True)
            if not text.startswith(before):
                raise DataError(
                    f"The chat template renders the turns before answer {len(spans) + 1} "
                    f"differently once it is answered: a prompt ends with {before[-40:]!r}, which "
                    "the whole conversation does not contain at that place. Use "
                    "data.template: alpaca, or single-turn examples."
                )
            # Templates may trim the answer or write an empty thinking block before it.
            at = max(text.find(message.content.strip(), len(before)), len(before))
            end = text.find(self._end, min(at + len(message.content.strip()), len(text)))
            if end < 0:
                raise DataError(
                    f"The chat template does not close answer {len(spans) + 1} with {self._end!r}. "
                    "Use data.template: alpaca."
                )
            spans.append((len(before), end + len(self._end)))
        return text, spans

    def _alpaca_text(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        roles = [message.role for message in messages]
        if roles != ["user", "assistant"]:
            raise DataError(
                f"The conversation has the turns {', '.join(roles)}; data.template 'alpaca' takes "
                "one user turn and one answer. Use data.template: model."
            )
        prompt = ALPACA_PROMPT.replace("{instruction}", messages[0].content)
        text = prompt + messages[1].content + self._end
        return text, [(len(prompt), len(text))]

    def _apply(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                [message.model_dump(exclude_none=True) for message in messages],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except jinja2.TemplateError as error:
            raise DataError(
                f"The chat template of this base refuses the conversation: {error}. "
                "Change the conversation, or use data.template: alpaca."
            ) from error
        return text

    def _end_of_turn(self) -> str:
        """The first special token that the template writes after an answer."""
        text = self._apply(_PROBE)
        tail = text.partition(_PROBE[1].content)[2]
        special = {
            token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special
        }
        special.update(self.tokenizer.all_special_tokens)
        found = sorted((tail.find(token), -len(token), token) for token in special if token in tail)
        if not found:
            raise ConfigError(
                f"The chat template ends an answer with {tail!r}, which holds no special token, so "
                "the model could not learn where to stop. Use data.template: alpaca."
            )
        return found[0][2]

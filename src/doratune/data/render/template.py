"""Conversations to text by the tokenizer's own chat template, with the answers to learn marked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from doratune.data.formats.draft import turn_text
from doratune.data.render.probes import QUESTION, REPLY, ignored, prefix_problem
from doratune.data.render.skeleton import Skeletons
from doratune.data.render.spoken import Spoken, Tools, learnt_turns
from doratune.errors import ConfigError, DataError
from doratune.record.schemas import Message

_ONLY_THE_LAST = "Give every answer but the last weight 0."
_NO_TEMPLATE = "Use data.template: alpaca."

# What a chat template is given of a turn.
_SEEN = ("role", "content", "tool_calls", "tool_call_id", "name")


class ChatTemplate:
    """The tokenizer's own chat template.

    Args:
        tokenizer: The base model's.

    Raises:
        ConfigError: It has no chat template, or one that does not close an answer with a special
            token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                "data.template is 'model', but the tokenizer of this base has no chat "
                "template. Use data.template: alpaca, or a base that was tuned for chat."
            )
        self.tokenizer = tokenizer
        self.end = self._end_of_turn()

    def spoken(self, messages: Sequence[Message], tools: Tools = None) -> Spoken:
        """Renders one conversation.

        Raises:
            DataError: The template refuses the conversation, or would not show the model all of it.
        """
        self._check_shown(messages, tools)
        text = self.apply(messages, tools)
        prompts = [self.apply(messages[:turn], tools, True) for turn in learnt_turns(messages)]
        return Spoken(text, self._spans(messages, text, prompts))

    def spoken_all(self, batch: Sequence[tuple[Sequence[Message], Tools]]) -> list[Spoken]:
        """Renders many conversations: the same as one by one, much faster.

        Raises:
            DataError: As for the first conversation that cannot be rendered.
        """
        turns = [learnt_turns(messages) for messages, _ in batch]
        if not batch or any(tools for _, tools in batch) or not all(turns):
            return [self.spoken(messages, tools) for messages, tools in batch]
        talks = [messages for messages, _ in batch]
        for messages in talks:
            self._check_shown(messages, None)
        dumped = [_dumped(messages) for messages in talks]
        begun = [talk[:turn] for talk, some in zip(dumped, turns, strict=True) for turn in some]
        try:
            texts = self._render_all(dumped)
            prompts = iter(self._render_all(begun, add_generation_prompt=True))
        except (jinja2.TemplateError, TypeError):
            return [self.spoken(messages) for messages in talks]
        return [
            Spoken(text, self._spans(messages, text, [next(prompts) for _ in some]))
            for messages, text, some in zip(talks, texts, turns, strict=True)
        ]

    def apply(
        self, messages: Sequence[Message], tools: Tools = None, add_generation_prompt: bool = False
    ) -> str:
        """The text of some turns, as it stands in the template.

        Raises:
            DataError: The template refuses them.
        """
        try:
            return self._render([_dumped(messages)], tools, add_generation_prompt)[0]
        except (jinja2.TemplateError, TypeError) as error:
            raise DataError(
                f"The chat template of this base refuses the conversation: {error}. "
                "Change the conversation, or use data.template: alpaca."
            ) from error

    @cached_property
    def prefix_problem(self) -> str | None:
        """How the template renders turns differently once others follow; None where it does not."""
        return prefix_problem(self.apply, self.end)

    def _spans(
        self, messages: Sequence[Message], text: str, prompts: Sequence[str]
    ) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        if not prompts:
            raise DataError(
                f"None of the {len(messages)} turns is learnt; at least one assistant turn must be."
            )
        for number, before in enumerate(prompts, 1):
            if not text.startswith(before):
                raise DataError(
                    f"The chat template renders the turns before answer {number} "
                    f"differently once it is answered: a prompt ends with {before[-40:]!r}, which "
                    "the whole conversation does not contain at that place. "
                    + (_ONLY_THE_LAST if len(prompts) > 1 else _NO_TEMPLATE)
                )
        starts = [len(before) for before in prompts]
        limits = [*starts[1:], len(text)]
        for number, turn in enumerate(learnt_turns(messages)):
            start, end = starts[number], starts[number]
            # End tokens that the answer itself holds do not end it.
            for _ in range(turn_text(messages[turn]).count(self.end) + 1):
                at = text.find(self.end, end, limits[number])
                if at < 0:
                    raise DataError(
                        f"The chat template does not close answer {number + 1} with {self.end!r}. "
                        + (_ONLY_THE_LAST if len(prompts) > 1 else _NO_TEMPLATE)
                    )
                end = at + len(self.end)
            self._check_whole(messages[turn], number + 1, text[start:end])
            spans.append((start, end))
        return spans

    def _check_whole(self, message: Message, number: int, rendered: str) -> None:
        """Refuses an answer of which something is missing; white space may differ."""
        content = message.content.strip()
        if content in rendered or "".join(content.split()) in "".join(rendered.split()):
            return
        raise DataError(
            f"The chat template leaves out part of answer {number}, {content[:60]!r}: it renders "
            f"{rendered[:60]!r}. Templates of models that think leave out the thoughts of all but "
            "the last answer. End the conversation with this answer, give it weight 0, or take "
            "out what the template leaves out."
        )

    def _check_shown(self, messages: Sequence[Message], tools: Tools) -> None:
        """Refuses what the template would leave out without a word."""
        used = {
            "tools": bool(tools),
            "tool_calls": any(message.tool_calls for message in messages),
            "tool turns": any(message.role == "tool" for message in messages),
        }
        lost = [name for name, there in used.items() if there and name in self._ignored]
        if lost:
            raise DataError(
                f"The conversation has {' and '.join(lost)}, which the chat template of this base "
                "does not show the model. Use a base whose template knows tools, or write them "
                "into the turns as text."
            )

    @cached_property
    def _ignored(self) -> frozenset[str]:
        return ignored(self.apply)

    def _render_all(
        self, conversations: list[list[dict[str, Any]]], add_generation_prompt: bool = False
    ) -> list[str]:
        texts = [self._skeletons.fill(turns, add_generation_prompt) for turns in conversations]
        rest = [turns for turns, text in zip(conversations, texts, strict=True) if text is None]
        rendered = iter(
            self._render(rest, add_generation_prompt=add_generation_prompt) if rest else []
        )
        return [next(rendered) if text is None else text for text in texts]

    @cached_property
    def _skeletons(self) -> Skeletons:
        return Skeletons(
            self.tokenizer.get_chat_template(),
            lambda turns, begin: self._render([turns], add_generation_prompt=begin)[0],
        )

    def _render(
        self,
        conversations: list[list[dict[str, Any]]],
        tools: Tools = None,
        add_generation_prompt: bool = False,
    ) -> list[str]:
        texts: list[str] = self.tokenizer.apply_chat_template(
            conversations,
            tools=tools,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return texts

    def _end_of_turn(self) -> str:
        """The first special token that the template writes after an answer."""
        text = self.apply([QUESTION, REPLY])
        tail = text.partition(REPLY.content)[2]
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


def _dumped(messages: Sequence[Message]) -> list[dict[str, Any]]:
    # model_dump takes several times as long.
    return [
        {key: value for key in _SEEN if (value := getattr(message, key)) is not None}
        for message in messages
    ]

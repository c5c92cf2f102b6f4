"""Conversations as text with the answers to learn marked: the forms that need no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from doratune.errors import DataError
from doratune.record.schemas import Message

Tools = list[dict[str, Any]] | None
"""JSON schemas of the tools a conversation may use."""

ALPACA_PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request. \n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


class Spoken(NamedTuple):
    """A conversation as text."""

    text: str
    spans: list[tuple[int, int]]
    """Where in the text each learnt answer begins and its end token ends, in characters."""


def alpaca(messages: Sequence[Message], tools: Tools, end: str) -> Spoken:
    """One question and one answer in the form used in the DoRA paper.

    Raises:
        DataError: The conversation has other turns, or tools.
    """
    roles = [message.role for message in messages]
    if roles != ["user", "assistant"] or tools or messages[1].tool_calls:
        found = f"the turns {', '.join(roles)}" + (" and tools" if tools else "")
        raise DataError(
            f"The conversation has {found}; data.template 'alpaca' takes "
            "one user turn and one answer. Use data.template: model."
        )
    prompt = ALPACA_PROMPT.replace("{instruction}", messages[0].content)
    text = prompt + messages[1].content + end
    return Spoken(text, [(len(prompt), len(text))])


def is_plain(messages: Sequence[Message]) -> bool:
    """Whether this is plain text: one assistant turn that answers nothing."""
    return len(messages) == 1 and messages[0].role == "assistant"


def plain(messages: Sequence[Message], end: str) -> Spoken:
    """Plain text: nothing before it, all of it learnt."""
    text = messages[0].content + end
    return Spoken(text, [(0, len(text))])


def learnt_turns(messages: Sequence[Message]) -> list[int]:
    """Indices of the turns that are trained on."""
    return [
        turn
        for turn, message in enumerate(messages)
        if message.role == "assistant" and message.weight is None
    ]

"""What every format becomes: a conversation, and what else its row says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from doratune.data.read import Row
from doratune.recipe.schema import DataSection
from doratune.record.files import digest_json
from doratune.record.schemas import Example, Message

Format = Literal["classification", "alpaca", "chat", "sharegpt", "completion", "preference", "text"]


@dataclass(frozen=True)
class Draft:
    """A row understood, before the label set is known."""

    row: Row
    turns: tuple[Message, ...]
    """For classification the bare text and the label; the prompt is filled in later. For plain text
    one assistant turn."""
    label: str | None
    group: str
    """Drafts of one group go to one split: the user's group, or else the text asked."""
    rejected: tuple[Message, ...] | None = None
    """For preference data, the answer that is not preferred, in place of the last turn."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the tools the conversation may use."""

    @cached_property
    def identity(self) -> str:
        """Digest of what the example says."""
        return content_digest(self.turns, self.rejected, self.tools)

    @cached_property
    def asked(self) -> str:
        """Digest of all turns before the answer; for plain text, of the text."""
        return content_digest(self.turns[:-1] or self.turns)

    @cached_property
    def text(self) -> str:
        """Everything said, turn after turn: what the gates look at."""
        return "\n".join(turn_text(turn) for turn in (*self.turns, *(self.rejected or ())))

    @cached_property
    def spoken(self) -> str:
        """The same without system turns, for what compares examples: many share one long prompt."""
        turns = (*self.turns, *(self.rejected or ()))
        return "\n".join(turn_text(turn) for turn in turns if turn.role != "system")

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.turns[-1].content


def content_digest(
    turns: Sequence[Message],
    rejected: Sequence[Message] | None = None,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """Digest of a conversation, of its turns alone where there is nothing else."""
    said = _dumped(turns)
    if rejected is None and tools is None:
        return digest_json(said)
    return digest_json({"turns": said, "rejected": _dumped(rejected or ()), "tools": tools})


def turn_text(turn: Message) -> str:
    """What a turn says, the arguments of its calls included."""
    if not turn.tool_calls:
        return turn.content
    calls = json.dumps(turn.tool_calls, ensure_ascii=False)
    return f"{turn.content}\n{calls}" if turn.content else calls


def to_example(draft: Draft, form: Format, section: DataSection, labels: list[str]) -> Example:
    """Makes the example; for classification the prompt is filled in."""
    messages = list(draft.turns)
    if form == "classification":
        # The text last, so that braces in it stay what they are.
        prompt = section.prompt.replace("{labels}", ", ".join(labels))
        prompt = prompt.replace("{text}", messages[0].content)
        messages[0] = Message(role="user", content=prompt)
    if section.system is not None and form != "text" and messages[0].role != "system":
        messages.insert(0, Message(role="system", content=section.system))
    rejected = None if draft.rejected is None else list(draft.rejected)
    return Example(
        id=content_digest(messages, rejected, draft.tools)[:16],
        messages=messages,
        rejected=rejected,
        tools=draft.tools,
        label=draft.label,
        place=draft.row.place,
    )


def _dumped(turns: Sequence[Message]) -> list[dict[str, Any]]:
    return [turn.model_dump(exclude_none=True) for turn in turns]

"""What every format becomes: a conversation, and what else its row says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from doratune.data.read import Row
from doratune.recipe.schema import DataSection
from doratune.record.files import canonical_json, digest_bytes, digest_json
from doratune.record.schemas import Example, Message

# What `json.dumps` uses for strings, without its detour: 0.3 microseconds instead of 2.
_quoted = json.encoder.encode_basestring

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
    difficulty: str | None = None
    """Value of the recipe's difficulty column; no part of what the example says."""

    @cached_property
    def said(self) -> list[str]:
        """Every turn as canonical JSON."""
        return [turn_json(turn) for turn in self.turns]

    @cached_property
    def identity(self) -> str:
        """Digest of what the example says."""
        if self.rejected is None and self.tools is None:
            return _digest_list(self.said)
        return content_digest(self.turns, self.rejected, self.tools)

    @cached_property
    def asked(self) -> str:
        """Digest of all turns before the answer; for plain text, of the text."""
        return _digest_list(self.said[:-1] or self.said)

    @cached_property
    def text(self) -> str:
        """Everything said, turn after turn: what the gates look at."""
        return "\n".join(turn_text(turn) for turn in (*self.turns, *(self.rejected or ())))

    @cached_property
    def spoken(self) -> str:
        """The same without system turns, for what compares examples: many share one long prompt."""
        turns = (*self.turns, *(self.rejected or ()))
        heard = [turn for turn in turns if turn.role != "system"]
        return self.text if len(heard) == len(turns) else "\n".join(map(turn_text, heard))

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
    if rejected is None and tools is None:
        return _digest_list(map(turn_json, turns))
    return digest_json(
        {"turns": _dumped(turns), "rejected": _dumped(rejected or ()), "tools": tools}
    )


def turn_json(turn: Message) -> str:
    """A turn as `canonical_json` has it, without what is None; a quarter of the time for most."""
    more = (turn.tool_calls, turn.tool_call_id, turn.name, turn.weight)
    if more == (None, None, None, None):
        return f'{{"content":{_quoted(turn.content)},"role":"{turn.role}"}}'
    return canonical_json(turn.model_dump(exclude_none=True))


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
        difficulty=draft.difficulty,
        place=draft.row.place,
    )


def _digest_list(items: Iterable[str]) -> str:
    """`digest_json` of a list whose items are canonical JSON already."""
    return digest_bytes(f"[{','.join(items)}]".encode())


def _dumped(turns: Sequence[Message]) -> list[dict[str, Any]]:
    return [turn.model_dump(exclude_none=True) for turn in turns]

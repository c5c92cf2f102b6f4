"""``sharegpt``: a conversation in the column ``conversations``, of ``from`` and ``value``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from doratune.data.formats import columns, turns
from doratune.data.formats.chat import conversation
from doratune.data.formats.draft import Draft
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message

_CALL = "function_call"

# Who speaks, in the spellings of ShareGPT, Vicuna, OpenHermes and LLaMA-Factory.
_ROLES: Mapping[str, str] = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response", "tool_response"), "tool"),
    **dict.fromkeys((_CALL, "tool_call"), _CALL),
    "system": "system",
}


def read(row: Row, section: DataSection) -> Draft:
    """Reads a row.

    Raises:
        DataError: The row does not fit.
    """
    values = columns.column(row, "conversations")
    if not isinstance(values, list) or not values:
        raise DataError(f"conversations is {columns.short(values)}; expected a list of turns")
    chat = [_turn(value, number) for number, value in enumerate(values, 1)]
    draft = conversation(row, section, turns.read_turns(chat, "conversations"))
    system = columns.optional_text(row, "system")
    if system is None or draft.turns[0].role == "system":
        return draft
    return replace(draft, turns=(Message(role="system", content=system), *draft.turns))


def _turn(value: Any, number: int) -> dict[str, Any]:
    """A turn with ``role`` and ``content``; turns that have these already stay as they are."""
    if not isinstance(value, dict):
        raise DataError(
            f"turn {number} is {columns.short(value)}; expected an object with from and value"
        )
    if "from" not in value and "role" in value:
        return value
    speaker, said = value.get("from"), value.get("value")
    role = _ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise DataError(
            f"turn {number} is from {columns.short(speaker)}; expected {', '.join(_ROLES)}"
        )
    rest = {key: item for key, item in value.items() if key not in ("from", "value")}
    if role != _CALL:
        return {**rest, "role": role, "content": said}
    return {**rest, "role": "assistant", "content": "", "tool_calls": _calls(said, number)}


def _calls(said: Any, number: int) -> list[Any]:
    """LLaMA-Factory writes a call, or a list of them, as JSON text."""
    try:
        calls = json.loads(said) if isinstance(said, str) else said
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"turn {number} is a {_CALL} of {columns.short(said)}, which is not JSON: {error}"
        ) from error
    return calls if isinstance(calls, list) and calls else [calls]

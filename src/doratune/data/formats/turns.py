"""Lists of turns: roles, contents, tool calls, and the order that a conversation must have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from doratune.data.formats import columns
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.record.schemas import Message

Role = Literal["system", "user", "assistant", "tool"]

CHAT_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

# What a turn may say besides its content and calls. It would be lost, so it is refused.
_LOST = ("reasoning_content", "reasoning", "thinking", "function_call", "images", "audio")


def read_turns(values: Any, name: str, first: int = 1) -> tuple[Message, ...]:
    """Reads a list of turns in OpenAI's form.

    Args:
        values: What stands in the row.
        name: Its column.
        first: Number of the first turn in messages.

    Raises:
        DataError: It is no list of turns, or a turn cannot be kept whole.
    """
    if not isinstance(values, list) or not values:
        raise DataError(f"{name} is {columns.short(values)}; expected a list of turns")
    return tuple(_turn(value, number) for number, value in enumerate(values, first))


def check_order(turns: Sequence[Message]) -> None:
    """Refuses turns that are no conversation that ends with an answer.

    Raises:
        DataError: They are not.
    """
    spoken = turns[1:] if turns[0].role == "system" else turns
    expected: tuple[Role, ...] = ("user",)
    for number, turn in enumerate(spoken, len(turns) - len(spoken) + 1):
        if turn.role not in expected:
            raise DataError(
                f"turn {number} is {turn.role}, expected {' or '.join(expected)}; after an "
                "optional system turn, user and assistant must alternate, with results of tools "
                "only after an assistant turn"
            )
        if turn.role == "user":
            expected = ("assistant",)
        elif turn.role == "tool":
            expected = ("tool", "assistant")
        else:
            expected = ("tool",) if turn.tool_calls else ("user", "tool")
    if turns[-1].role != "assistant":
        raise DataError(
            f"the last turn, {len(turns)}, is {turns[-1].role}; a conversation must end with the "
            "assistant's answer, which is what is learnt. Remove the trailing turn"
        )
    if turns[-1].weight == 0:
        raise DataError(
            f"the last turn, {len(turns)}, has weight 0; the last answer is always learnt. "
            "Remove the turn"
        )


def unlearnt(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns of a prompt: its assistant turns are not trained on."""
    return tuple(
        turn.model_copy(update={"weight": 0}) if turn.role == "assistant" else turn
        for turn in turns
    )


def read_tools(row: Row) -> list[dict[str, Any]] | None:
    """The column ``tools``: JSON schemas, as a list or as the JSON text of one.

    Raises:
        DataError: It is something else.
    """
    value = row.content.get("tools")
    if isinstance(value, str) and value.strip():
        value = _parsed(value, "tools")
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise DataError(
            f"tools is {columns.short(value)}; expected a list of JSON schemas, one a tool, or "
            "the JSON text of such a list"
        )
    return value


def tool_call(value: Any, where: str) -> dict[str, Any]:
    """A call in the form that chat templates expect: a function with a name and an object.

    Raises:
        DataError: It has no name, or its arguments are no object.
    """
    function = value.get("function", value) if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise DataError(
            f"{where} is {columns.short(value)}; expected an object with name and arguments"
        )
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        # OpenAI writes them as JSON text; templates would quote that a second time.
        arguments = _parsed(arguments, f"{where}, arguments")
    if not isinstance(arguments, dict) and arguments not in (None, ""):
        raise DataError(f"{where} has arguments {columns.short(arguments)}; expected an object")
    call = {"type": "function", "function": {"name": name, "arguments": arguments or {}}}
    return {"id": value["id"], **call} if isinstance(value.get("id"), str) else call


def _turn(value: Any, number: int) -> Message:
    if not isinstance(value, dict):
        raise DataError(
            f"turn {number} is {columns.short(value)}; expected an object with role and content"
        )
    role = _role(value.get("role"), number)
    for key in _LOST:
        if value.get(key):
            raise DataError(
                f"turn {number} has {key} {columns.short(value[key])}, which would be lost; write "
                "it into content the way the model does, or remove it"
            )
    calls = _calls(value.get("tool_calls"), role, number)
    turn: dict[str, Any] = {"tool_calls": calls}
    if role == "tool":
        turn |= {key: _name(value.get(key), key, number) for key in ("tool_call_id", "name")}
    if role == "assistant" and value.get("weight") is not None:
        if value["weight"] not in (0, 1):
            raise DataError(f"turn {number} has weight {value['weight']!r}; expected 0 or 1")
        turn["weight"] = None if value["weight"] else 0
    content = _content(value.get("content"), number, optional=bool(calls) or role == "tool")
    return Message(role=role, content=content, **turn)


def _role(role: Any, number: int) -> Role:
    known = CHAT_ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise DataError(
            f"turn {number} has role {columns.short(role)}; expected system, user, assistant or "
            "tool"
        )
    return known


def _content(content: Any, number: int, optional: bool) -> str:
    if isinstance(content, list) and content:
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise DataError(
                f"turn {number} has content {columns.short(content)}; expected text, or a list of "
                "parts of type text"
            )
        content = "".join(texts)
    if content is None and optional:
        return ""
    if not isinstance(content, str) or not (content.strip() or optional):
        raise DataError(f"turn {number} has content {columns.short(content)}; expected text")
    return content


def _calls(calls: Any, role: Role, number: int) -> list[dict[str, Any]] | None:
    if not calls:
        return None
    if role != "assistant" or not isinstance(calls, list):
        raise DataError(
            f"turn {number}, {role}, has tool_calls {columns.short(calls)}; expected a list of "
            "calls, in assistant turns only"
        )
    return [tool_call(call, f"turn {number}, call {n}") for n, call in enumerate(calls, 1)]


def _name(value: Any, key: str, number: int) -> str | None:
    if value is not None and not isinstance(value, str):
        raise DataError(f"turn {number} has {key} {columns.short(value)}; expected a string")
    return value or None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is {columns.short(text)}, which is not JSON: {error}") from error

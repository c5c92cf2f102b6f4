"""What a chat template does, found out by small conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from doratune.data.render.spoken import Tools, learnt_turns
from doratune.errors import DataError
from doratune.record.schemas import Message

QUESTION = Message(role="user", content="question-2c9e")
"""Stands for a question."""
REPLY = Message(role="assistant", content="reply-7f3a")
"""Stands for an answer that is not there."""

Apply = Callable[[Sequence[Message], Tools, bool], str]
"""Renders turns with tools; the flag asks for the beginning of the answer too."""

_THOUGHT = Message(role="assistant", content="<think>\nthought\n</think>\n\nanswer")
_CALL = Message(
    role="assistant",
    content="",
    tool_calls=[
        {"type": "function", "function": {"name": "call_51d0", "arguments": {"key": "value-8b6e"}}}
    ],
)
_RESULT = Message(role="tool", content="result-90c7", name="call_51d0")
_TOOL = {
    "type": "function",
    "function": {
        "name": "tool_e41a",
        "description": "Looks things up.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
}


def prefix_problem(apply: Apply, end: str) -> str | None:
    """How a template renders turns differently once others follow; None where it does not.

    Every prompt that ends where the assistant must answer, and every answer up to its end of turn,
    must be found unchanged at the beginning of the whole conversation. Otherwise what is learnt is
    not what the model is asked for later. Looked at in conversations of plain turns, of answers
    that think first, and of tool calls; kinds that the template cannot render are refused anyway.

    Args:
        apply: Renders turns.
        end: The token that ends an answer.
    """
    probes: list[tuple[list[Message], Tools]] = [
        ([QUESTION, REPLY, QUESTION, REPLY], None),
        ([QUESTION, _THOUGHT, QUESTION, _THOUGHT], None),
        ([QUESTION, _CALL, _RESULT, _RESULT, REPLY, QUESTION, REPLY], [_TOOL]),
    ]
    for messages, tools in probes:
        try:
            whole = apply(messages, tools, False)
            parts = _parts(apply, end, messages, tools)
        except DataError:
            continue
        for part in parts:
            if not whole.startswith(part):
                at = next(i for i, c in enumerate(part) if whole[i : i + 1] != c)
                return f"{part[at:][:60]!r} becomes {whole[at:][:60]!r} once other turns follow"
    return None


def _parts(apply: Apply, end: str, messages: Sequence[Message], tools: Tools) -> list[str]:
    """The conversation up to where each answer begins, and up to where it ends."""
    parts = []
    for turn in learnt_turns(messages):
        said = apply(messages[: turn + 1], tools, False)
        parts += [apply(messages[:turn], tools, True), said[: said.rfind(end) + len(end)]]
    return parts


def ignored(apply: Apply) -> frozenset[str]:
    """What of tools a template leaves out without a word.

    Returns:
        Some of ``"tools"``, ``"tool_calls"`` and ``"tool turns"``.
    """
    probes: dict[str, tuple[list[Message], str]] = {
        "tools": ([QUESTION, REPLY], "tool_e41a"),
        "tool_calls": ([QUESTION, _CALL], "value-8b6e"),
        "tool turns": ([QUESTION, _CALL, _RESULT, REPLY], "result-90c7"),
    }
    lost = set()
    for name, (messages, sign) in probes.items():
        try:
            if sign not in apply(messages, [_TOOL], False):
                lost.add(name)
        except DataError:
            continue  # Refused with the template's own reason when it comes up.
    return frozenset(lost)

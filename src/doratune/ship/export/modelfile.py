"""Ollama's Modelfile: the GGUF file, the chat template in Ollama's language, system turn, ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SIGN = "\ue000"
_CONVERSATIONS: list[list[tuple[str, str]]] = [
    [("user", "One.")],
    [("system", "Two."), ("user", "Three.")],
    [("user", "Four."), ("assistant", "Five."), ("user", "Six.")],
    [
        ("system", "Seven."), ("user", "Eight."), ("assistant", "Nine."), ("user", "Ten."),
        ("assistant", "Eleven."), ("user", "Twelve."),
    ],
]  # fmt: skip


class Turns(NamedTuple):
    """What a template puts around each role's text."""

    around: dict[str, tuple[str, str]]
    opening: str
    """Begins the assistant's answer."""
    system: str | None
    """The system turn that the template adds to a conversation without one."""


def modelfile(
    tokenizer: PreTrainedTokenizerBase,
    file: str,
    system: str | None,
    stops: list[str],
    template: str | None = None,
) -> str:
    """The text of a Modelfile.

    Args:
        tokenizer: With the chat template.
        file: Name of the GGUF file beside it.
        system: System turn of the training data, or None.
        stops: Texts that end an answer.
        template: Ollama template to use as it is; None derives it from the chat template.
    """
    lines = [f"FROM ./{file}"]
    turns = read_turns(tokenizer) if template is None else None
    if template is None and turns is not None:
        template = ollama_template(turns)
        system = system or turns.system
    if template is None:
        lines.append(
            "# The chat template is more than text around the turns; Ollama uses the one in the file."
        )
    else:
        lines.append(f'TEMPLATE """{template}"""')
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"


def ollama_template(turns: Turns) -> str:
    """The turns in Go's template language."""
    parts = []
    for word, (role, (before, after)) in zip(
        ("if", "else if", "else if"), turns.around.items(), strict=True
    ):
        parts.append(
            f'{{{{ {word} eq .Role "{role}" }}}}{_go(before)}{{{{ .Content }}}}{_go(after)}'
        )
    loop = "".join(parts)
    return f"{{{{ range .Messages }}}}{loop}{{{{ end }}}}{{{{ end }}}}{_go(turns.opening)}"


def _go(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def read_turns(tokenizer: PreTrainedTokenizerBase) -> Turns | None:
    """What the chat template puts around each turn; None where it does something else with them."""
    roles = ["system", "user", "assistant", "user"]
    try:
        before_system, after_system, after_user, between, end = _cut(tokenizer, roles, True)
        user = _cut(tokenizer, roles[:2], False)[-1]
        assistant = _cut(tokenizer, roles[:3], False)[-1]
        alone = _cut(tokenizer, ["user"], True)[0]
    except (TemplateError, ValueError):
        return None
    before_user = between.removeprefix(assistant)
    around = {
        "system": (before_system, after_system.removesuffix(before_user)),
        "user": (before_user, user),
        "assistant": (after_user.removeprefix(user), assistant),
    }
    opening = end.removeprefix(user)
    turns = Turns(around, opening, _added_system(alone.removesuffix(before_user), around))
    return turns if all(_agrees(tokenizer, turns, c) for c in _CONVERSATIONS) else None


def _cut(tokenizer: PreTrainedTokenizerBase, roles: list[str], answer: bool) -> list[str]:
    """What stands before, between and after the texts of the turns."""
    pieces = _render(tokenizer, [(role, _SIGN) for role in roles], answer).split(_SIGN)
    if len(pieces) != len(roles) + 1:
        raise ValueError("the template does not write every text once")
    return pieces


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[tuple[str, str]], answer: bool) -> str:
    messages = [{"role": role, "content": text} for role, text in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
    # Where the tokenizer begins every text with a token of its own, Ollama does it too.
    begins = tokenizer.bos_token and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return str(text).removeprefix(tokenizer.bos_token) if begins else str(text)


def _added_system(head: str, around: dict[str, tuple[str, str]]) -> str | None:
    """The text of the system turn that begins a conversation without one."""
    before, after = around["system"]
    if head.startswith(before) and head.endswith(after) and len(head) > len(before) + len(after):
        return head[len(before) : len(head) - len(after)]
    return None


def _agrees(
    tokenizer: PreTrainedTokenizerBase, turns: Turns, conversation: list[tuple[str, str]]
) -> bool:
    """Whether the turns put together are what the template writes."""
    whole = list(conversation)
    if turns.system and conversation[0][0] != "system":
        whole.insert(0, ("system", turns.system))
    text = "".join(turns.around[role][0] + said + turns.around[role][1] for role, said in whole)
    return text + turns.opening == _render(tokenizer, conversation, True)

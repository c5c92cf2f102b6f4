"""``preference``: two answers to one prompt, of which ``chosen`` is better than ``rejected``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from doratune.data.formats import columns, turns
from doratune.data.formats.chat import conversation
from doratune.data.formats.completion import read_answer, read_prompt
from doratune.data.formats.draft import Draft
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Message


def read(row: Row, section: DataSection) -> Draft:
    """Reads a row, with its prompt in a column of its own or at the beginning of both answers.

    Raises:
        DataError: The row does not fit.
    """
    if row.content.get("prompt") is not None:
        prompt = read_prompt(row)
        chosen = read_answer(row, "chosen", len(prompt) + 1)
        rejected = read_answer(row, "rejected", len(prompt) + 1)
    else:
        prompt, chosen, rejected = _implicit(row)
    if chosen == rejected:
        raise DataError(
            f"chosen and rejected are both {columns.short(chosen[-1].content)}; expected two "
            "different answers. Remove the row"
        )
    _check_answer("chosen", chosen)
    _check_answer("rejected", rejected)
    return replace(conversation(row, section, (*prompt, *chosen)), rejected=rejected)


def _implicit(row: Row) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """Prompt and answers of two conversations, the prompt being what they begin with in common."""
    both = []
    for name in ("chosen", "rejected"):
        value = columns.column(row, name)
        if not isinstance(value, list):
            raise DataError(
                f"{name} is {columns.short(value)} and there is no column 'prompt'; expected a "
                "prompt, or whole conversations as lists of turns"
            )
        both.append(turns.read_turns(value, name))
    chosen, rejected = both
    common = 0
    while common < min(map(len, both)) and chosen[common] == rejected[common]:
        common += 1
    if common == 0:
        raise DataError("chosen and rejected differ from turn 1 on; expected a common prompt")
    if chosen == rejected:
        return (), chosen, rejected
    return turns.unlearnt(chosen[:common]), chosen[common:], rejected[common:]


def _check_answer(name: str, answer: Sequence[Message]) -> None:
    roles = [turn.role for turn in answer]
    if roles != ["assistant"]:
        raise DataError(
            f"after the prompt {name} has the turns {', '.join(roles) or 'none'}; expected one "
            "assistant turn. Move what both have in common into the prompt"
        )

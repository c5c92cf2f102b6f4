"""The completions as a page to read: an overview, then every prompt with both answers."""

from __future__ import annotations

import re

from doratune.progress import visible
from doratune.recipe.schema import Recipe
from doratune.record.completions import BASE_ANSWER, REFERENCE
from doratune.record.review import ReviewItem
from doratune.record.run_folder import RunFolder

_CELL = 60
"""Characters of an answer in the overview."""


def completions_page(items: list[ReviewItem], run: RunFolder, recipe: Recipe) -> str:
    """Markdown.

    Args:
        items: The prompts with the tuned model's answers, and the base's beside them.
        run: Where they are kept.
        recipe: Says how they were made.
    """
    num_test = sum(item.split is not None for item in items)
    parts = [
        f"# Completions of {recipe.name}\n",
        f"{num_test} test prompts, chosen by hash, and {len(items) - num_test} edge cases. Base is "
        f"{recipe.model.source}; both models answer greedily, with at most "
        f"{recipe.eval.completions.max_new_tokens} new tokens (longer answers are cut). A verdict on "
        f"each: `doratune review completions {run.path}`.\n",
        _overview(items),
        *(_section(number, item) for number, item in enumerate(items, 1)),
    ]
    return "\n".join(parts)


def _overview(items: list[ReviewItem]) -> str:
    rows = ["| | prompt | reference | base | tuned |", "|---|---|---|---|---|"]
    for number, item in enumerate(items, 1):
        beside = item.beside
        cells = [
            item.place,
            beside.get(REFERENCE, ""),
            beside[BASE_ANSWER],
            item.messages[-1].content,
        ]
        rows.append(f"| {number} | {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    """A text as one short line that nothing in it can break out of."""
    line = " ".join(visible(text).split())
    line = line if len(line) <= _CELL else line[: _CELL - 1] + "…"
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", line)


def _section(number: int, item: ReviewItem) -> str:
    label = f" ({_cell(item.label)})" if item.label else ""
    parts = [f"## {number}. {_cell(item.place)}{label}\n"]
    parts += [_block(turn.role, turn.content) for turn in item.messages[:-1]]
    parts += [_block(name, text) for name, text in item.beside.items()]
    parts.append(_block("tuned model", item.messages[-1].content))
    return "\n".join(parts)


def _block(name: str, text: str) -> str:
    """A text in a fence longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"**{name}**\n\n{fence}text\n{visible(text)}\n{fence}\n"

"""Answers of base and tuned side by side, and what a language model said of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from doratune.record.completions import BASE_ANSWER, JudgeFile
from doratune.record.evaluation import Interval
from doratune.record.review import ReviewItem
from doratune.report.text import clipped, first_upper, p_value, percent, percent_range

MAX_PAIRS = 6


class Completion(NamedTuple):
    """One prompt and its answers."""

    place: str
    prompt: str
    answers: list[tuple[str, str, str]]
    """Whose answer, its mark in the page, and the answer."""


def completions(items: Sequence[ReviewItem]) -> list[Completion]:
    """Some prompts, evenly spread over the file, so that test prompts and edge cases are among them."""
    number = min(MAX_PAIRS, len(items))
    chosen = [items[(2 * i + 1) * len(items) // (2 * number)] for i in range(number)]
    return [
        Completion(
            item.place,
            clipped("\n\n".join(turn.content for turn in item.messages[:-1]), 600),
            [
                *(
                    (first_upper(name), "base" if name == BASE_ANSWER else "", clipped(text, 500))
                    for name, text in item.beside.items()
                ),
                ("Tuned model", "tuned", clipped(item.messages[-1].content, 500)),
            ],
        )
        for item in chosen
    ]


def judge_rows(file: JudgeFile) -> list[tuple[str, str, str]]:
    """Name, figure and key."""

    def share(interval: Interval | None) -> str:
        if interval is None:
            return "—"
        return f"{percent(interval.value)} ({percent_range(interval)})"

    return [
        ("Judge", file.model, "model"),
        ("Pairs", f"{file.num_pairs:,}, {file.num_identical:,} of equal answers", "num_pairs"),
        ("Tuned wins", share(file.wins), "wins"),
        ("Ties", share(file.ties), "ties"),
        ("Base wins", share(file.losses), "losses"),
        ("Wins and half of the ties", share(file.win_rate), "win_rate"),
        ("Sign test", p_value(file.p_value), "p_value"),
        ("Verdict changes with the order", share(file.flipped), "flipped"),
        ("First answer preferred", share(file.first_preferred), "first_preferred"),
        ("Replies without a verdict", f"{file.num_unreadable:,}", "num_unreadable"),
    ]

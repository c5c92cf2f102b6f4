"""What a language model said of base and tuned answers; these are `ReviewItem` lines."""

from __future__ import annotations

from typing import Literal

from doratune.record.evaluation import Interval, Model
from doratune.record.schemas import Record, RunFile

BASE_ANSWER, REFERENCE = "base model", "reference"
"""Keys of `ReviewItem.beside` in ``completions/review.jsonl``; the tuned answer is the last turn."""


class Judgement(Record):
    """One line of ``completions/judgements.jsonl``: one pair of answers in one order."""

    id: str
    """`ReviewItem.id`, which changes with any of the answers."""
    judge: str
    """Digest of everything else that was asked and of whom."""
    first: Model
    """Whose answer was shown first."""
    preferred: Model | Literal["tie"] | None
    """None where the reply names no verdict."""
    reply: str
    seconds: float


class JudgeFile(RunFile):
    """``completions/judge.json``: tuned against base in the eyes of a language model.

    A pair is won where tuned is preferred in both orders, lost where base is, and a tie otherwise.
    """

    url: str
    model: str
    criteria: str
    num_pairs: int
    """Pairs with a verdict in both orders, and those of equal answers."""
    num_identical: int
    """Pairs of equal answers: ties without asking."""
    wins: Interval
    """Share of the pairs."""
    ties: Interval
    losses: Interval
    win_rate: Interval
    """Wins and half of the ties, share of the pairs."""
    p_value: float
    """Exact sign test of wins against losses."""
    flipped: Interval | None
    """Share of the pairs asked whose two verdicts differ; None where none was asked."""
    first_preferred: Interval | None
    """Share of the verdicts other than ties that prefer what was shown first; 0.5 without bias."""
    num_unreadable: int
    """Replies without a verdict."""
    unreadable: list[str] = []
    """How each of them begins."""
    seconds: float
    """Sum over the calls."""

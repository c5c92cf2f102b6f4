"""What is planted in texts is found, and little else, at stated precision and recall.

The built-in clauses are always there. The real files are those of docs/data.md; without them next
to the checkout their tests are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import gates_found
from benchmarks.gates_found import Question, Score

from doratune.data.clauses import clauses

REAL = Path(__file__).resolve().parents[4] / "shared" / "data"
MINIMA = {
    "encoding": (0.99, 0.99),
    "duplicates": (1.0, 1.0),
    "conflicts": (1.0, 1.0),
    "near duplicates": (0.94, 0.94),
    "near duplicates, not close to the threshold": (0.99, 0.99),
    "language": (1.0, 0.95),
    "personal data": (0.99, 0.98),
    "leakage": (0.99, 0.99),
    "relevance": (0.75, 0.75),
}
"""Precision and recall."""


def check(scores: Iterator[Score]) -> None:
    """Refuses scores below the minima."""
    every = [score for score in scores if not score.what.startswith("datasketch")]
    assert sum(score.wanted for score in every) >= 20
    for score in every:
        _, comma, clear = score.what.partition("not close to the threshold")
        precision, recall = MINIMA[f"{score.gate}, {comma}{clear}" if comma else score.gate]
        assert score.precision >= precision, score
        assert score.recall >= recall, score


@pytest.mark.parametrize(
    "question",
    [
        gates_found.encoding_scores,
        gates_found.duplicate_scores,
        gates_found.language_scores,
        gates_found.personal_data_scores,
    ],
)
def test_what_is_planted_in_built_in_clauses_is_found(question: Question) -> None:
    check(question({"clauses": [row["text"] for row in clauses()]}))


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the files of docs/data.md in ../shared/data")
@pytest.mark.parametrize("question", gates_found.QUESTIONS)
def test_what_is_planted_in_real_texts_is_found(question: Question) -> None:
    check(question(gates_found.read_texts(REAL, 200)))

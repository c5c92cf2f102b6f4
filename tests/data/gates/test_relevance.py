from __future__ import annotations

import numpy as np
import pytest
from benchmarks.parts import planted

from doratune.data.clauses import clauses
from doratune.data.gates.relevance import BUCKETS, Scorer, counts

CLAUSES = [row["text"] for row in clauses()]
OTHERS = planted.ENGLISH * 10


def scorer(seeds: list[str], data: list[str]) -> Scorer:
    return Scorer(counts(seeds), counts(data))


def test_clauses_are_more_like_clauses_than_other_sentences_are() -> None:
    data = CLAUSES[100:] + OTHERS
    scores = scorer(CLAUSES[:100], data).scores(data)
    legal, other = scores[: -len(OTHERS)], scores[-len(OTHERS) :]
    assert np.quantile(legal, 0.01) > other.max()
    assert legal.mean() > 0 > other.mean()


def test_length_does_not_decide() -> None:
    score = scorer(CLAUSES[:100], CLAUSES + OTHERS).scores
    once, thrice = score([OTHERS[0], ". ".join([OTHERS[0]] * 3)])
    # Two more pairs of words, where the sentences meet, are all that is new.
    assert once == pytest.approx(thrice, abs=0.25)
    assert once < score(CLAUSES).min()


def test_a_name_is_no_verdict() -> None:
    """Otherwise the least alike of real data are the names of parties."""
    score = scorer(CLAUSES[:100], CLAUSES + OTHERS + ["Impresse"]).scores
    assert min(score(OTHERS)) < score(["Impresse"])[0] < 0


def test_counts_of_batches_add_up_and_scores_do_not_depend_on_them() -> None:
    data = CLAUSES + OTHERS
    parts = [data[begin : begin + 100] for begin in range(0, len(data), 100)]
    assert np.array_equal(sum(map(counts, parts)), counts(data))
    score = scorer(CLAUSES[:50], data).scores
    assert np.array_equal(score(data), np.concatenate([score(part) for part in parts]))


def test_what_neither_has_counts_against_a_text() -> None:
    """Few seeds, much data: an unknown word may not look as if it came from the seeds."""
    known, unknown = scorer(CLAUSES[:5], CLAUSES).scores([CLAUSES[0], "xylophone quetzal zugzwang"])
    assert known > 0 > unknown


def test_texts_without_words_and_no_seeds_have_no_score() -> None:
    assert counts([]).shape == (BUCKETS,)
    assert scorer(CLAUSES[:5], CLAUSES).scores(["", "!?"]).tolist() == [0, 0]
    assert np.allclose(scorer([], CLAUSES).scores(CLAUSES[:3]), 0)
    assert scorer([], []).scores([]).tolist() == []

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from doratune.data.gates.leakage import Table
from doratune.data.gates.words import hash_words


def runs(number: int, words: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(10_000)}" for _ in range(words)) for _ in range(number)]


def hits(held_out: list[str], texts: list[str], n: int = 13) -> list[int]:
    return Table.build([hash_words(held_out)], n).hits(hash_words(texts)).tolist()


def test_thirteen_words_in_a_row_are_a_leak_and_twelve_are_not() -> None:
    (secret,) = runs(1, 40)
    words = secret.split()
    texts = [
        " ".join(["before", *words[5:18], "after"]),
        " ".join(["before", *words[5:17], "after"]),
        secret.upper().replace(" ", ", "),
        " ".join(reversed(words)),
        " ".join([*words[:20], "another", *words[21:]]),
    ]
    assert hits([secret], texts) == [1, 0, 28, 0, 8 + 7]
    assert hits([secret], texts, n=12)[:2] == [2, 1]


def test_short_texts_are_compared_as_a_whole() -> None:
    held_out = [
        "Is the orange named after its color?",
        "Yes, of course.",
        "one two three four five",
    ]
    texts = [
        "is the ORANGE named after its color",
        "is the orange named after its color or not",
        "yes of course",
        "one two three four five",
        "",
    ]
    assert hits(held_out, texts) == [1, 0, 0, 1, 0]


def test_a_template_is_no_leak_and_what_fills_it_is() -> None:
    """As raw 13-grams, every pair of these texts shares some."""
    head = "please choose the correct answer to fill in the blank to complete the given sentence"
    tail = "answer format option1 option2 the correct answer is option1"
    held_out = [f"{head} {text} {tail}" for text in runs(200, 15)]
    other = [f"{head} {text} {tail}" for text in runs(200, 15, seed=1)]
    leaked = other[:3] + held_out[:2] + [" ".join(held_out[2].split()[10:30])]
    assert hits(held_out, leaked) == [0, 0, 0, 3, 3, 3]
    assert hits(held_out[:10], leaked) == [0, 0, 0, 3, 3, 3]
    # Two texts may have a passage in common.
    assert min(hits(held_out[:2], leaked[:3])) > 0


def test_what_is_all_template_leaks_as_a_whole() -> None:
    clause = "this agreement may be terminated by either party upon thirty days written notice"
    held_out = [f"{clause} {text}" for text in runs(50, 10)] + [clause]
    assert hits(held_out, [clause, f"{clause} to w1 w2", f"now {clause}"]) == [1, 0, 0]


def test_repeats_within_a_text_are_no_template() -> None:
    chorus = " ".join(["all together now we sing this very song"] * 20)
    assert hits([chorus], [chorus]) == [160 - 12]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_do_not_matter(size: int, tmp_path: Path) -> None:
    held_out = runs(60, 30) + ["the same old phrase of seven words"] * 30
    texts = runs(40, 20, seed=1) + held_out[::7]
    batches = [hash_words(held_out[i : i + size]) for i in range(0, len(held_out), size)]
    table = Table.build(batches, 13)
    assert len(table) == len(Table.build([hash_words(held_out)], 13))
    table.save(tmp_path / "table.npy")
    mapped = Table.load(tmp_path / "table.npy")
    parts = [mapped.hits(hash_words(texts[i : i + size])) for i in range(0, len(texts), size)]
    assert np.concatenate(parts).tolist() == hits(held_out, texts)


def test_nothing_leaks_into_or_from_nothing() -> None:
    assert Table.build([], 13).hits(hash_words(["a b c d e f"])).tolist() == [0]
    assert hits([""], [""]) == [0]
    assert hits(["a b c d e f"], []) == []

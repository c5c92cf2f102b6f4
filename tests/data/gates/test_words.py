from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from doratune.data.gates.words import Hashes, hash_words, ngrams, selected, wholes


def per_text(hashes: Hashes) -> list[list[int]]:
    values, offsets = hashes
    return [values[a:b].tolist() for a, b in pairwise(offsets)]


def test_case_punctuation_and_unicode_form_do_not_count() -> None:
    first, *others = per_text(
        hash_words(
            [
                "Café au lait, 3 times",
                "café AU-lait (3) times!",
                "Cafe\u0301 \n\tau ｌａｉｔ 3 times",
            ]
        )
    )
    assert len(first) == len(set(first)) == 5
    assert others == [first, first]


def test_equal_words_have_equal_hashes_and_others_do_not() -> None:
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzäöüéßдж"
    vocabulary = sorted(
        {"".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(20_000)}
    )
    (hashes,) = per_text(hash_words([" ".join(vocabulary)]))
    # Lower-casing and normalising may not have made two of these equal.
    assert len(set(hashes)) == len(hashes) == len(vocabulary)
    again = per_text(hash_words(vocabulary))
    assert [h for (h,) in again] == hashes


@pytest.mark.parametrize("text", ["租客在搬出", "トマトの水", "สวัสดี"])
def test_every_character_is_a_word_where_no_spaces_are_written(text: str) -> None:
    assert [len(words) for words in per_text(hash_words([text]))] == [len(text)]


def test_marks_belong_to_their_word() -> None:
    assert [len(words) for words in per_text(hash_words(["हिन्दी भाषा", "שָׁלוֹם"]))] == [2, 1]


def test_texts_do_not_touch_each_other() -> None:
    texts = ["one two", "", "...", "three", "four five six " * 9]
    together = per_text(hash_words(texts))
    assert together == [per_text(hash_words([text]))[0] for text in texts]
    assert [len(words) for words in together] == [2, 0, 0, 1, 27]
    assert per_text(hash_words([])) == []
    assert per_text(hash_words(["", "!"])) == [[], []]


def test_long_texts_are_cut_at_the_same_places_whatever_is_around() -> None:
    long = "".join(random.Random(0).choices("abcde ", k=600_000))
    alone = per_text(hash_words([long]))[0]
    assert per_text(hash_words(["x y", long, "z"]))[1] == alone
    # One word in a cut at the most, of two cuts.
    assert abs(len(alone) - len(long.split())) <= 2


def test_lone_surrogates_are_no_error() -> None:
    assert [len(words) for words in per_text(hash_words(["a \ud800 b\udfff"]))] == [2]


@pytest.mark.parametrize(("n", "at_least"), [(1, 1), (2, 1), (3, 1), (3, 3), (13, 5)])
def test_ngrams_are_the_runs_of_words(n: int, at_least: int) -> None:
    rng = random.Random(n)
    texts = [" ".join(rng.choices("abcd", k=rng.randint(0, 20))) for _ in range(300)]
    meaning: dict[int, tuple[str, ...]] = {}
    for text, found in zip(texts, per_text(ngrams(hash_words(texts), n, at_least)), strict=True):
        words = text.split()
        expected = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if not expected and len(words) >= at_least:
            expected = [tuple(words)]
        assert len(found) == len(expected)
        for value, run in zip(found, expected, strict=True):
            assert meaning.setdefault(value, run) == run
    assert len(set(meaning.values())) == len(meaning)


def test_the_order_of_words_counts() -> None:
    words = hash_words(["a b c", "c b a", "a b c", "", "a"])
    first, second, third, empty, last = wholes(words).tolist()
    assert first == third
    assert len({first, second, last, empty}) == 4
    assert empty == 0


def test_selected_words_stay_with_their_text() -> None:
    words = hash_words(["a b c", "", "d e"])
    left = selected(words, np.array([True, False, True, False, True]))
    assert per_text(left) == per_text(hash_words(["a c", "", "e"]))

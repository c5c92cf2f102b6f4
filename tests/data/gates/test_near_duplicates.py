from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.parts import planted
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from doratune.data.gates.near_duplicates import WIDTH, bands, clusters, sketch


def random_texts(number: int, words: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(5000)}" for _ in range(words)) for _ in range(number)]


def by_all_pairs(sketches: NDArray[np.uint16], threshold: float) -> NDArray[np.int64]:
    """What clusters says, by comparing every sketch with every other."""
    number = len(sketches)
    equal = np.zeros((number, number), np.int16)
    for column in sketches.T:
        equal += column[:, None] == column
    _, labels = connected_components(coo_array(equal >= threshold * WIDTH), directed=False)
    _, firsts = np.unique(labels, return_index=True)
    return firsts[labels]


def test_sketches_estimate_the_similarity_of_word_3_grams() -> None:
    rng = random.Random(0)
    texts, changed = random_texts(400, 40), []
    for place, text in enumerate(texts):
        words = text.split()
        for spot in rng.sample(range(40), place % 8):
            words[spot] = "changed"
        changed.append(" ".join(words))
    estimate = (sketch(texts) == sketch(changed)).mean(1)
    grams = [[planted.grams(text, 3) for text in part] for part in (texts, changed)]
    exact = np.array([len(a & b) / len(a | b) for a, b in zip(*grams, strict=True)])
    # Four standard deviations of the mean of 400 sketches, each at most binomial.
    assert abs((estimate - exact).mean()) < 4 * 0.5 / np.sqrt(WIDTH * 400)
    assert (estimate - exact).std() < np.sqrt(0.25 / WIDTH)


def test_sketches_do_not_depend_on_the_batch() -> None:
    texts = [*random_texts(300, 20), "", "!!", "a", "a b"]
    whole = sketch(texts)
    assert (whole.shape, whole.dtype) == ((304, WIDTH), np.uint16)
    assert whole.max() > 65_000
    pieces = [sketch(texts[begin : begin + 37]) for begin in range(0, 304, 37)]
    assert np.array_equal(whole, np.concatenate(pieces))
    assert sketch([]).shape == (0, WIDTH)


def test_texts_without_words_are_alike_only_when_equal() -> None:
    texts = ["!!!", "???", " !!! ", "", " ", "one", "One.", "two", "one two", "two one", "\ud800"]
    assert clusters(sketch(texts), 0.8).tolist() == [0, 1, 0, 3, 3, 5, 5, 7, 8, 9, 10]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95])
def test_clusters_are_those_of_all_pairs(threshold: float) -> None:
    rng = random.Random(1)
    texts = random_texts(300, 30)
    for text in rng.sample(texts, 150):
        texts.append(planted.one_word_changed(text, rng))
        texts.append(planted.sentence_appended(text, rng))
        texts.append(planted.case_and_punctuation_changed(text, rng))
    rng.shuffle(texts)
    sketches = sketch(texts)
    found, wanted = clusters(sketches, threshold), by_all_pairs(sketches, threshold)
    # A pair at the threshold is missed once in 200 times.
    assert (found != wanted).sum() <= 6
    assert (wanted != np.arange(len(texts))).sum() >= 150


def test_a_template_that_all_texts_share_hides_no_pair() -> None:
    """Most bands of most texts hold the template alone, and are the same for all."""
    template = " ".join(f"template{n}" for n in range(40))
    texts = [f"{template} {text}" for text in random_texts(2000, 8)]
    pairs = [(place, len(texts) + place) for place in range(400)]
    for place, _ in pairs:
        words = texts[place].split()
        words[44] = "changed"
        texts.append(" ".join(words))
    sketches = sketch(texts)
    first = clusters(sketches, 0.8)
    close = [(a, b) for a, b in pairs if (sketches[a] == sketches[b]).mean() > 0.81]
    assert len(close) > 380
    assert sum(first[a] != first[b] for a, b in close) <= 4
    # Apart from the template, the others have nothing in common: similarity 0.70.
    assert np.bincount(first).max() < 40


def test_many_near_copies_of_one_text_are_one_group() -> None:
    rng = random.Random(3)
    text = random_texts(1, 60)[0]
    texts = [planted.one_word_changed(text, rng) for _ in range(800)] + [text] * 800
    assert Counter(clusters(sketch(texts), 0.8).tolist()) == {0: 1600}


def test_a_group_is_named_by_its_first_text_and_reaches_through_others() -> None:
    words = [f"w{n}" for n in range(60)]
    chain = [
        " ".join([*words[shift:], *(f"x{n}" for n in range(shift))]) for shift in (0, 5, 10, 15)
    ]
    other = random_texts(1, 60)[0]
    first = clusters(sketch([other, *chain[1:], chain[0], other]), 0.8)
    assert first.tolist() == [0, 1, 1, 1, 1, 0]
    ends = [planted.grams(chain[0], 3), planted.grams(chain[3], 3)]
    assert len(ends[0] & ends[1]) / len(ends[0] | ends[1]) < 0.7


def test_sketches_may_lie_in_a_file(tmp_path: Path) -> None:
    texts = random_texts(200, 20)
    sketches = sketch([*texts, *texts[:50]])
    np.save(tmp_path / "sketches.npy", sketches)
    mapped = np.load(tmp_path / "sketches.npy", mmap_mode="r")
    assert np.array_equal(clusters(mapped, 0.8), clusters(sketches, 0.8))
    assert clusters(sketches[:0], 0.8).tolist() == []
    assert clusters(sketches[:1], 0.8).tolist() == [0]


@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.5, 0.7, 0.8, 0.9, 0.99])
def test_bands_reach_the_pairs_at_the_threshold(threshold: float) -> None:
    parts = bands(threshold)
    length = len(parts[0])
    assert {len(part) for part in parts} == {length}
    assert len({column for part in parts for column in part}) == length * len(parts) <= WIDTH
    if length > 1:
        assert 1 - (1 - threshold**length) ** len(parts) >= 0.995
    else:
        assert len(parts) == WIDTH

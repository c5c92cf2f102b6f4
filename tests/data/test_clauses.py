from __future__ import annotations

import difflib
from collections import Counter, defaultdict

from doratune.data.clauses import LABELS, clauses
from doratune.record.files import digest_json

ROWS = clauses()


def test_every_clause_is_unique_and_every_label_equally_frequent() -> None:
    assert len({row["text"] for row in ROWS}) == len(ROWS) == 612
    assert Counter(row["label"] for row in ROWS) == dict.fromkeys(LABELS, 102)


def test_the_same_seed_gives_the_same_clauses() -> None:
    assert digest_json(clauses(3)) == digest_json(clauses(3)) != digest_json(clauses(4))


def test_the_text_is_frozen() -> None:
    """Published figures name the built-in data; a changed generator needs a new name."""
    assert digest_json(ROWS) == "7dbd44e2e51bdf43ab1d7c8d8a0ff008fdfef4105d65049183f2355e5ba873e2"


def test_twins_differ_in_label_and_in_little_else() -> None:
    groups = defaultdict(list)
    for row in ROWS:
        groups[row["group"]].append(row)
    assert len(groups) == 306
    shared = []
    for left, right in groups.values():
        assert left["label"] != right["label"]
        words = left["text"].split(), right["text"].split()
        shared.append(difflib.SequenceMatcher(None, *words, autojunk=False).ratio())
    assert min(shared) >= 0.55
    assert sum(shared) / len(shared) > 0.8


def test_every_label_has_near_misses_with_three_others() -> None:
    pairs = Counter(row["group"].rpartition(" / ")[0] for row in ROWS)
    assert set(pairs.values()) == {68}
    labels = Counter(label for pair in pairs for label in pair.split(" / "))
    assert labels == dict.fromkeys(LABELS, 3)


def test_no_slot_bracket_or_double_space_is_left() -> None:
    for row in ROWS:
        assert not set("[]{}|") & set(row["text"]), row
        assert "  " not in row["text"]
        assert row["text"][0].isupper()
        assert row["text"].endswith(".")


def test_clauses_are_short() -> None:
    lengths = [len(row["text"].split()) for row in ROWS]
    assert min(lengths) >= 10
    assert max(lengths) <= 45


def test_no_single_word_gives_a_label_away() -> None:
    """The best single-word rule names far fewer clauses right than reading them would."""
    best = 0.0
    holders = defaultdict(list)
    for row in ROWS:
        for word in set(row["text"].lower().replace(",", "").replace(".", "").split()):
            holders[word].append(row["label"])
    for labels in holders.values():
        hits = Counter(labels).most_common(1)[0][1]
        # F1 of "this word means this label".
        best = max(best, 2 * hits / (len(labels) + 102))
    assert best <= 0.8

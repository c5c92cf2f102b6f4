from __future__ import annotations

import difflib
from collections import Counter, defaultdict

from doratune.data.clauses import LABELS, clauses
from doratune.record.files import digest_json

ROWS = clauses()


def test_every_clause_is_unique_and_every_label_equally_frequent() -> None:
    assert len({row["text"] for row in ROWS}) == len(ROWS) == 900
    assert Counter(row["label"] for row in ROWS) == dict.fromkeys(LABELS, 150)


def test_the_same_seed_gives_the_same_clauses() -> None:
    assert digest_json(clauses(3)) == digest_json(clauses(3)) != digest_json(clauses(4))


def test_the_text_is_frozen() -> None:
    """Published figures name the built-in data; a changed generator needs a new name."""
    assert digest_json(ROWS) == "32c2da2ec7c44860a1581d150d4e06fbdfcdec7b4e3e8d2a83be512717059818"


def test_twins_differ_in_label_and_in_little_else() -> None:
    groups = defaultdict(list)
    for row in ROWS:
        groups[row["group"]].append(row)
    assert len(groups) == 450
    shared = []
    for left, right in groups.values():
        assert left["label"] != right["label"]
        words = left["text"].split(), right["text"].split()
        shared.append(difflib.SequenceMatcher(None, *words, autojunk=False).ratio())
    assert min(shared) >= 0.6
    assert sum(shared) / len(shared) > 0.85


def test_every_two_labels_have_near_misses() -> None:
    pairs = Counter(row["group"].rpartition(" / ")[0] for row in ROWS)
    assert len(pairs) == 15
    assert set(pairs.values()) == {60}


def test_no_slot_bracket_or_double_space_is_left() -> None:
    for row in ROWS:
        assert not set("[]{}|") & set(row["text"]), row
        assert "  " not in row["text"]
        assert row["text"][0].isupper()
        assert row["text"].endswith(".")


def test_clauses_are_short() -> None:
    lengths = [len(row["text"].split()) for row in ROWS]
    assert min(lengths) >= 15
    assert max(lengths) <= 60


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
        best = max(best, 2 * hits / (len(labels) + 150))
    assert best < 0.8

from __future__ import annotations

import json
import re
import string
from collections import Counter
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from doratune.errors import DataError
from doratune.evaluate.metrics.texts import json_fields, rouge_l, token_f1

PAIRS = [
    ("Paris", "Paris"),
    ("The city of Paris.", "paris"),
    ("London", "Paris"),
    ("", "Paris"),
    ("", ""),
    ("the", "a"),
    ("fees paid in the twelve months before the claim", "twelve months of fees, paid before"),
    ("no no no", "no"),
    ("It's the well-known U.S. rule", "its wellknown US rule"),
]


def squad_official(answer: str, reference: str) -> float:
    """``compute_f1`` of SQuAD 2.0's evaluation script, as published."""

    def get_tokens(s: str) -> list[str]:
        s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", s).split()

    gold_toks, pred_toks = get_tokens(reference), get_tokens(answer)
    common = Counter(gold_toks) & Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(pred_toks)
    recall = 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


@pytest.mark.parametrize(("answer", "reference"), PAIRS)
def test_token_f1_is_squads(answer: str, reference: str) -> None:
    assert token_f1(answer, reference) == pytest.approx(squad_official(answer, reference))


def test_token_f1_by_hand() -> None:
    # cat, sat against cat, ran, off: one word of 2 and 3.
    assert token_f1("The cat sat!", "A cat ran off") == pytest.approx(2 * 1 / (2 + 3))


@pytest.mark.parametrize(("answer", "reference"), PAIRS)
def test_rouge_l_is_that_of_rouge_score(answer: str, reference: str) -> None:
    expected = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert rouge_l(answer, reference) == expected


def test_rouge_l_by_hand() -> None:
    # police ... the gunman of four and four words: Lin 2004, section 3.1.
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(2 / 4)
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(3 / 4)


def test_rouge_l_knows_letters_beyond_a_to_z() -> None:
    assert rouge_l("Die Haftung ist übergroß", "die Haftung ist übergroß.") == 1
    assert rouge_l("ответственность ограничена", "Ответственность не ограничена") == pytest.approx(
        2 * 2 / 5
    )


REFERENCE = {"party": "Acme  Ltd", "cap": {"amount": 100, "currency": "EUR"}, "kinds": ["a", "b"]}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (REFERENCE, 5 / 5),
        ({**REFERENCE, "party": " Acme Ltd"}, 5 / 5),
        ({**REFERENCE, "party": "acme ltd"}, 4 / 5),
        ({**REFERENCE, "cap": {"amount": 100.0, "currency": "USD"}}, 4 / 5),
        ({**REFERENCE, "cap": {"amount": "100", "currency": "EUR"}}, 4 / 5),
        ({**REFERENCE, "kinds": ["b", "a"]}, 3 / 5),
        ({**REFERENCE, "kinds": []}, 3 / 6),
        ({**REFERENCE, "invented": None}, 5 / 6),
        ({"party": "Acme Ltd"}, 1 / 5),
        ({}, 0),
        ([REFERENCE], 0),
        ("a text", 0),
    ],
)
def test_json_fields(answer: Any, right: float) -> None:
    assert json_fields(json.dumps(answer), json.dumps(REFERENCE)) == pytest.approx(right)


@pytest.mark.parametrize(
    "answer", ["", "{", 'Sure: {"a": 1}', "NaN", "[" * 100_000, "[" * 900 + "]" * 900]
)
def test_an_answer_that_is_no_json_object_has_no_field_right(answer: str) -> None:
    assert json_fields(answer, '{"a": 1}') == 0


def test_true_is_not_1() -> None:
    assert json_fields('{"a": true, "b": 1}', '{"a": 1, "b": 1}') == 1 / 2
    assert json_fields("{}", "{}") == 1


@pytest.mark.parametrize("reference", ["Acme", "[1]", '"a"'])
def test_a_reference_that_is_no_json_object_is_refused(reference: str) -> None:
    with pytest.raises(
        DataError, match=r"answer_form is 'json', but the reference answer .* is no JSON object"
    ):
        json_fields("{}", reference)

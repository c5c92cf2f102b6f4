"""Answers in words against a reference: each function scores one answer, in [0, 1]."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from doratune.errors import DataError

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words that both have, in any order, as SQuAD 2.0's official script computes it.

    Case, ASCII punctuation and English articles do not count.
    https://rajpurkar.github.io/SQuAD-explorer/, ``evaluate-v2.0.py``.
    """
    said, wanted = _squad_words(answer), _squad_words(reference)
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of words (Lin 2004), without stemming.

    Words are runs of letters and digits of any script, in lower case; for English as in the
    ``rouge_score`` package, whose own tokenizer knows no other letters than a to z.
    """
    return _rouge().score(reference, answer)["rougeL"].fmeasure


class _Words:
    """Splits text for the ``rouge_score`` package."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@cache
def _rouge() -> RougeScorer:
    # The package imports NLTK, which takes a second that only open tasks should pay.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def json_fields(answer: str, reference: str) -> float:
    """Share of the fields of two JSON objects, taken together, that are equal in both.

    A field is a value that is neither object nor list, or an empty one, under its path of keys and
    positions. One that is missing, wrong or additional counts against the answer. Strings are
    compared but for white space, numbers by value. An answer that is no JSON object scores 0.

    Args:
        answer: Any text.
        reference: JSON text of an object.

    Raises:
        DataError: The reference is no JSON object.
    """
    wanted = dict(_fields(json_object(reference)))
    try:
        said = json.loads(answer)
        given = dict(_fields(said))
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(said, dict):
        return 0.0
    right = sum(path in given and given[path] == value for path, value in wanted.items())
    return right / len(wanted.keys() | given.keys())


def json_object(reference: str) -> dict[str, Any]:
    """The object that a reference answer is.

    Raises:
        DataError: It is none.
    """
    try:
        value = json.loads(reference)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        shown = reference if len(reference) <= 60 else f"{reference[:57]}..."
        raise DataError(
            f"eval.answer_form is 'json', but the reference answer {shown!r} is no JSON object. "
            "Every reference must be one; or set eval.answer_form: text."
        )
    return value


def _fields(
    value: Any, path: Sequence[str | int] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Path and value of each field; the value with its type, since True equals 1."""
    inner: Iterator[tuple[str | int, Any]] | None = None
    if isinstance(value, dict) and value:
        inner = iter(value.items())
    elif isinstance(value, list) and value:
        inner = iter(enumerate(value))
    if inner is not None:
        for key, item in inner:
            yield from _fields(item, (*path, key))
    elif isinstance(value, str):
        yield tuple(path), value.split()
    else:
        yield tuple(path), (isinstance(value, bool), value)

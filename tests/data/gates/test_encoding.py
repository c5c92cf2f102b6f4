from __future__ import annotations

import timeit

import pytest
from benchmarks.parts import planted

from doratune.data.gates.encoding import kinds, why


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a\x00b", "control character"),
        ("ä\x1b[31m", "control character"),
        ("a\x7f", "control character"),
        ("next\x85line", "control character"),
        ("caf\ufffd", "replacement character"),
        ("half \ud83d", "invalid character"),
        ("icon \uf015", "invalid character"),
        ("\uffff", "invalid character"),
        ("\U0010ffff", "invalid character"),
        ("zero\u200bwidth", "invisible character"),
        ("\ufeffBOM", "invisible character"),
        ("soft\u00adhyphen", "invisible character"),
        ("Latin\u200djoiner", "invisible character"),
        ("hidden \U000e0041\U000e0042", "invisible character"),
        ("user\u202egnp.exe", "bidirectional control"),
        ("mark\u200f alone", "bidirectional control"),
        ("fianceÃ©", "mojibake"),
        ("itâ€™s", "mojibake"),
        ("voilÃ  tout", "mojibake"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "mojibake"),
    ],
)
def test_what_is_wrong_is_named(text: str, kind: str) -> None:
    assert kinds(text) == [kind]
    assert why(text).startswith(kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Tabs\tand\nnewlines\r\nare fine. ~",
        "“Quoted” – it’s naïve… 5 € © ½ × 3°",
        "👨‍👩‍👧 and 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "می‌خواهم",
        "क्‍ष",
        "שלום \u200f(abc)\u200f",
        "DÉJÀ VU, ÀÉÎ, Ångström, señor, Žižek, İstanbul",
    ],
)
def test_what_is_right_is_left_alone(text: str) -> None:
    assert kinds(text) == []
    assert why(text) == ""


@pytest.mark.parametrize("language", planted.SENTENCES)
def test_no_language_is_taken_for_mojibake(language: str) -> None:
    assert [kinds(text) for text in planted.SENTENCES[language]] == [[], [], [], []]


def test_several_kinds_are_all_named_with_their_places() -> None:
    text = "x\ufffd\u200b fianceÃ©"
    assert kinds(text) == ["replacement character", "invisible character", "mojibake"]
    assert why(text) == (
        "replacement character U+FFFD at character 1; invisible character U+200B at character 2; "
        "mojibake 'x\ufffd\\u200b fianceÃ©' (perhaps 'x\ufffd\\u200b fianceé') at character 9"
    )


def test_clean_text_costs_next_to_nothing() -> None:
    text = "The parties agree to the following terms and conditions.\n" * 4
    seconds = min(timeit.repeat(lambda: kinds(text), number=1000, repeat=5)) / 1000
    # A third of a microsecond; a busy machine is given the aim of 2, five times over.
    assert seconds < 10e-6

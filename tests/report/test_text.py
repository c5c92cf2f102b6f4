from __future__ import annotations

import pytest

from doratune.report import text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (43_210, "43.2 k"),
        (999_940, "999.9 k"),
        (999_960, "1.0 M"),
        (2_140_000, "2.1 M"),
        (8e9, "8.0 G"),
        (3e12, "3.0 T"),
    ],
)
def test_count(value: float, expected: str) -> None:
    assert text.count(value).replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.421, "0.42 s"),
        (9.996, "10 s"),
        (59.6, "1 min 00 s"),
        (192, "3 min 12 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert text.duration(seconds).replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [(512, "512 B"), (1536, "1.5 KiB"), (2_040_109_465, "1.9 GiB"), (1024**3 - 1, "1.0 GiB")],
)
def test_memory(num_bytes: int, expected: str) -> None:
    assert text.memory(num_bytes).replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (0.0121, "0.012"),
        (0.31, "0.31"),
        (61.2, "61"),
        (6.1e-5, "6.1 × 10⁻⁵"),
        (2.0**-24, "6.0 × 10⁻⁸"),
        (-6.1e-5, "−6.1 × 10⁻⁵"),
        (float("nan"), "not finite"),
    ],
)
def test_small(value: float, expected: str) -> None:
    assert text.small(value).replace("\xa0", " ") == expected


def test_a_difference_has_a_sign_unless_it_rounds_to_zero() -> None:
    assert text.points(0.691) == "+69.1"
    assert text.points(-0.021) == "−2.1"
    assert text.points(-0.0001) == "0.0"


def test_p_value_is_never_zero() -> None:
    assert text.p_value(3e-18).replace("\xa0", " ") == "p < 0.001"
    assert text.p_value(0.0316).replace("\xa0", " ") == "p = 0.032"


def test_clipped_says_how_much_is_missing() -> None:
    assert text.clipped("abc", 3) == "abc"
    assert text.clipped("a" * 2000 + "z" * 1000, 300) == (
        "a" * 200 + " […2,700 characters…] " + "z" * 100
    )


@pytest.mark.parametrize(
    ("place", "short"),
    [("data/a.jsonl:17", "a.jsonl:17"), ("a.json[3]", "a.json[3]"), ("builtin:clauses:4",) * 2],
)
def test_places(place: str, short: str) -> None:
    assert text.short_place(place) == short


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.9312, "0.931"),
        (12.345, "12.35"),
        (123.45, "123.5"),
        (12_345.6, "12,346"),
        (-0.5, "−0.500"),
        (float("inf"), "not finite"),
    ],
)
def test_a_figure_has_the_decimals_of_its_size(value: float, expected: str) -> None:
    assert text.figure(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, "+0.500"), (-12.3, "−12.30"), (2345.6, "+2,346"), (-2345.6, "−2,346"), (0.0, "0.000")],
)
def test_a_difference_of_figures_has_a_sign(value: float, expected: str) -> None:
    assert text.signed_figure(value) == expected


def test_learning_rates_are_short() -> None:
    rates = (5e-4, 1.7e-4, 6e-5, 1.35e-2)
    assert [text.rate(rate) for rate in rates] == ["5e-04", "1.7e-04", "6e-05", "1.35e-02"]


def test_lists_read_as_sentences() -> None:
    assert text.listed([]) == ""
    assert text.listed(["a"]) == "a"
    assert text.listed(["a", "b"]) == "a and b"
    assert text.listed(["a", "b", "c"]) == "a, b and c"


def test_long_names_end_with_an_ellipsis() -> None:
    assert text.shortened("short", 5) == "short"
    assert text.shortened("a long name", 7) == "a long…"


def test_first_letters() -> None:
    assert text.first_upper("full fine-tuning of LoRA") == "Full fine-tuning of LoRA"
    assert text.first_upper("") == ""

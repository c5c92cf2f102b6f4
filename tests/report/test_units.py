from __future__ import annotations

import pytest

from doratune.report import units
from tests.report.sample_figures import interval


def test_shares_are_percent_and_their_differences_points() -> None:
    assert units.value("accuracy", 0.9312) == "93.1\xa0%"
    assert units.ends("accuracy", interval(0.9, 0.85, 0.95)) == "85.0 to 95.0"
    assert units.change("accuracy", -0.021) == "−2.1 points"
    assert units.change_ends("accuracy", interval(0, -0.1, 0.1)) == "−10.0 to +10.0"
    assert units.size("accuracy", -0.084) == "8.4 points"


def test_other_metrics_keep_their_size() -> None:
    assert units.value("perplexity", 1234.5) == "1,234"
    assert units.ends("macro_f1", interval(0.5, 0.41, 0.6)) == "0.410 to 0.600"
    assert units.change("perplexity", -12.345) == "−12.35"
    assert units.change_ends("answer_nll", interval(0, -0.1, 0.1)) == "−0.100 to +0.100"
    assert units.size("answer_nll", -0.5) == "0.500"


@pytest.mark.parametrize(("key", "expected"), [("accuracy", -0.2), ("answer_nll", 0.2)])
def test_a_gain_is_positive_whatever_the_direction(key: str, expected: float) -> None:
    assert units.gain(key, -0.2) == expected


def test_perplexity_of_texts_from_elsewhere_has_a_title() -> None:
    metric = units.metric(units.OUT_OF_DOMAIN)
    assert (metric.title, metric.better) == ("Perplexity of texts from elsewhere", "lower")

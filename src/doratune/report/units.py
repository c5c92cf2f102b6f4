"""Figures of a metric in the unit that people read them in."""

from __future__ import annotations

from doratune.record.evaluation import METRICS, Interval, Metric
from doratune.report import text

OUT_OF_DOMAIN = "out_of_domain_perplexity"


def metric(key: str) -> Metric:
    """How a metric of a file is called and read."""
    if key == OUT_OF_DOMAIN:
        return Metric("Perplexity of texts from elsewhere", "lower", "number")
    return METRICS[key]


def value(key: str, figure: float) -> str:
    """The figure: ``93.1 %`` for shares, ``0.931`` for others."""
    return text.percent(figure) if _is_share(key) else text.figure(figure)


def ends(key: str, interval: Interval) -> str:
    """The ends of its interval, without the unit."""
    return text.percent_range(interval) if _is_share(key) else text.figure_range(interval)


def change(key: str, difference: float) -> str:
    """A difference: ``+69.1 points`` for shares, ``+0.691`` for others."""
    if _is_share(key):
        return f"{text.points(difference)} points"
    return text.signed_figure(difference)


def size(key: str, difference: float) -> str:
    """The size of a difference, without a sign."""
    if _is_share(key):
        return f"{text.plain(100 * abs(difference), 1)} points"
    return text.figure(abs(difference))


def change_ends(key: str, interval: Interval) -> str:
    """The ends of a difference's interval, without the unit."""
    if _is_share(key):
        return text.points_range(interval)
    return f"{text.signed_figure(interval.low)} to {text.signed_figure(interval.high)}"


def gain(key: str, difference: float) -> float:
    """The difference, positive where it is for the better."""
    return difference if metric(key).better == "higher" else -difference


def _is_share(key: str) -> bool:
    return metric(key).unit == "share"

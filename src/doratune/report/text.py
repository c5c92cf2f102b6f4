"""Numbers as people read them. Spaces inside a figure do not break; minus is a minus sign."""

from __future__ import annotations

import math
from collections.abc import Sequence

from doratune.record.evaluation import Interval

NOT_MEASURED = "not measured"
_SPACE = "\N{NO-BREAK SPACE}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(value: float, digits: int = 3) -> str:
    """A figure with fixed decimals, such as ``0.931``."""
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "not finite"


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign, such as ``+0.66``; one that rounds to zero has none."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def figure(value: float) -> str:
    """A figure with the decimals that its size deserves: ``0.931``, ``12.35``, ``123.5``, ``12,346``."""
    return plain(value, _decimals(value)) if abs(value) < 1000 else _whole(value)


def signed_figure(value: float) -> str:
    """A difference of figures, with its sign."""
    if abs(value) < 1000:
        return signed(value, _decimals(value))
    return ("+" if value > 0 else "") + _whole(value)


def figure_range(interval: Interval) -> str:
    """The ends of an interval of figures."""
    return f"{figure(interval.low)} to {figure(interval.high)}"


def _decimals(value: float) -> int:
    return next(digits for digits, limit in ((3, 10), (2, 100), (1, 1000)) if abs(value) < limit)


def _whole(value: float) -> str:
    return f"{value:,.0f}".replace("-", "−") if math.isfinite(value) else "not finite"


def percent(value: float, digits: int = 1) -> str:
    """A share of one, such as ``93.1 %``."""
    return plain(100 * value, digits) + _SPACE + "%"


def points(value: float) -> str:
    """A difference of shares in percentage points, without the unit."""
    return signed(100 * value, 1)


def count(value: float) -> str:
    """A number of things: ``4,321``, ``43.2 k``, ``2.1 M``."""
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    # 999,950 rounds to 1.0 M, not to 1000.0 k.
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if abs(value) < 999.95 * size:
            return f"{value / size:.1f}{_SPACE}{unit}"
    return f"{value / 1e12:.1f}{_SPACE}T"


def memory(num_bytes: int) -> str:
    """Bytes in binary units, such as ``1.9 GiB``."""
    if num_bytes < 1024:
        return f"{num_bytes}{_SPACE}B"
    size = num_bytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if size < 1023.95:
            return f"{size:.1f}{_SPACE}{unit}"
        size /= 1024
    return f"{size:.1f}{_SPACE}TiB"


def duration(seconds: float) -> str:
    """A time, such as ``0.42 s``, ``42 s``, ``3 min 12 s`` or ``2 h 05 min``."""
    if seconds < 9.995:
        return f"{seconds:.2f}{_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min{_SPACE}{whole % 60:02}{_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{_SPACE}h{_SPACE}{minutes % 60:02}{_SPACE}min"


def small(value: float) -> str:
    """Two significant digits over any range, such as ``0.012`` or ``6.0 × 10⁻⁵``."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "not finite"
    if 1e-3 <= abs(value) < 1e4:
        decimals = max(0, 1 - math.floor(math.log10(abs(value))))
        return plain(value, decimals)
    mantissa, exponent = f"{value:.1e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    return f"{mantissa.replace('-', '−')}{_SPACE}×{_SPACE}10{power}"


def equals(symbol: str, number: int) -> str:
    """``n = 120`` on one line."""
    return f"{symbol}{_SPACE}={_SPACE}{number:,}"


def p_value(value: float) -> str:
    """``p < 0.001`` or ``p = 0.032``."""
    text = "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
    return text.replace(" ", _SPACE)


def percent_range(interval: Interval) -> str:
    """The ends of an interval of shares, in percent without the unit."""
    return f"{plain(100 * interval.low, 1)} to {plain(100 * interval.high, 1)}"


def points_range(interval: Interval) -> str:
    """The ends of an interval of differences, in points without the unit."""
    return f"{points(interval.low)} to {points(interval.high)}"


def clipped(text: str, limit: int) -> str:
    """The text, or its first and last parts with the number of characters left out between."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]} […{len(text) - head - tail:,} characters…] {text[-tail:]}"


def short_place(place: str) -> str:
    """A place such as ``folder/file.jsonl:17`` without the folders."""
    return place.rpartition("/")[2]


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def rate(value: float) -> str:
    """A learning rate, such as ``5e-04`` or ``1.35e-02``."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{exponent}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def first_upper(sentence: str) -> str:
    """The text with its first letter in upper case, the others as they are."""
    return sentence[:1].upper() + sentence[1:]

"""How far the confidence of base and tuned can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from doratune.record.evaluation import (
    METRICS,
    MODELS,
    Calibration,
    CalibrationBin,
    CoveragePoint,
    EvalFile,
    Interval,
    Model,
    ModelFigures,
)
from doratune.report import units
from doratune.report.charts.calibration import coverage_chart, reliability_chart
from doratune.report.text import NOT_MEASURED, figure, percent, percent_range, plain

SCALED = ("ece", "ece_mass", "brier", "label_nll")


class Diagram(NamedTuple):
    """One reliability diagram."""

    model: Model
    caption: str
    chart: Markup


class ScaledRow(NamedTuple):
    """One metric as measured and at the fitted temperature."""

    name: str
    key: str
    figures: list[tuple[str, str]]
    """Value and interval of base, base scaled, tuned, tuned scaled."""


class CoverageRow(NamedTuple):
    """Accuracy of the most confident answers."""

    coverage: str
    figures: list[tuple[str, str, str]]
    """Accuracy, interval and lowest confidence, of base and tuned."""


class CalibrationView(NamedTuple):
    """The section."""

    diagrams: list[Diagram]
    temperatures: list[str]
    """Of base and tuned, in words."""
    scaled: list[ScaledRow]
    coverage_chart: Markup | None
    coverage: list[CoverageRow]


def calibration(file: EvalFile) -> CalibrationView | None:
    """Diagrams and tables; None for open tasks."""
    figures = [file.figures(model) for model in MODELS]
    found = [one.calibration for one in figures]
    if not any(found):
        return None
    curves = {m: c.coverage for m, c in zip(MODELS, found, strict=True) if c and c.coverage}
    return CalibrationView(
        [diagram for model in MODELS for diagram in _diagrams(model, file.figures(model))],
        [_temperature(model, one) for model, one in zip(MODELS, found, strict=True)],
        [
            ScaledRow(METRICS[key].title, key, [_pair(key, one) for one in of_all])
            for key in SCALED
            if any(of_all := _before_and_after(key, figures))
        ],
        coverage_chart(curves) if curves else None,
        _coverage_rows([c.coverage if c else [] for c in found]),
    )


def _temperature(model: Model, found: Calibration | None) -> str:
    if found is None or found.temperature is None:
        note = found.temperature_note if found else ""
        return f"{model.capitalize()}: {NOT_MEASURED}" + (f" ({note})" if note else "")
    asked = f" ({found.num_validation:,} validation examples)" if found.num_validation else ""
    return f"{model.capitalize()}: {plain(found.temperature)}{asked}"


def _diagrams(model: Model, figures: ModelFigures) -> list[Diagram]:
    found = figures.calibration
    if found is None:
        return []
    before = _diagram(model, "as it is", found.bins, figures.metrics.get("ece"))
    if not found.scaled_bins or found.temperature is None:
        return [before]
    name = f"at temperature {plain(found.temperature, 2)}"
    return [before, _diagram(model, name, found.scaled_bins, found.scaled.get("ece"))]


def _diagram(
    model: Model, name: str, bins: Sequence[CalibrationBin], ece: Interval | None
) -> Diagram:
    caption = f"{model.capitalize()} {name}" + (f", ECE {figure(ece.value)}" if ece else "")
    return Diagram(model, caption, reliability_chart(bins, model))


def _before_and_after(key: str, figures: Sequence[ModelFigures]) -> list[Interval | None]:
    return [
        interval
        for one in figures
        for interval in (
            one.metrics.get(key),
            one.calibration.scaled.get(key) if one.calibration else None,
        )
    ]


def _pair(key: str, interval: Interval | None) -> tuple[str, str]:
    if interval is None:
        return NOT_MEASURED, ""
    return units.value(key, interval.value), units.ends(key, interval)


def _coverage_rows(curves: Sequence[Sequence[CoveragePoint]]) -> list[CoverageRow]:
    points = [{point.coverage: point for point in curve} for curve in curves]
    shares = sorted({share for curve in points for share in curve}, reverse=True)
    return [
        CoverageRow(percent(share, 0), [_covered(curve.get(share)) for curve in points])
        for share in shares
    ]


def _covered(point: CoveragePoint | None) -> tuple[str, str, str]:
    if point is None:
        return NOT_MEASURED, "", ""
    return (
        percent(point.accuracy.value),
        percent_range(point.accuracy),
        percent(point.threshold, 0),
    )

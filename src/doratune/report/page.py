"""Records to the page of a run."""

from __future__ import annotations

from statistics import StatisticsError, correlation, median

from doratune.record.run_folder import RunFolder
from doratune.report.charts.change import change_charts, scatter_chart
from doratune.report.charts.curves import MAX_POINTS, loss_chart, thinned
from doratune.report.charts.intervals import WIDTHS
from doratune.report.limits import limits
from doratune.report.records import Evaluation, Records, read_records
from doratune.report.tables.answers import answers
from doratune.report.tables.arms import arm_forest
from doratune.report.tables.benchmarks import benchmarks
from doratune.report.tables.calibration import calibration
from doratune.report.tables.checks import check_rows, onto_rows, worst_layers
from doratune.report.tables.classes import MAX_CLASSES, class_rows, confusion
from doratune.report.tables.completions import completions, judge_rows
from doratune.report.tables.cost import cost_rows
from doratune.report.tables.data import found_rows, gate_rows, outcome, review_line
from doratune.report.tables.epochs import epochs
from doratune.report.tables.exports import LOGIT_COLUMNS, exports
from doratune.report.tables.latency import latency_rows, prompt_lengths
from doratune.report.tables.metrics import how_measured, metric_rows
from doratune.report.tables.strata import strata
from doratune.report.template import fill
from doratune.report.text import equals, plain
from doratune.report.verdict import judge, majority

METHODS = {"dora": "DoRA", "lora": "LoRA", "full": "full fine-tuning"}
OWN_STAGES = {"report", "compare_report"}
"""Their entries would make a page depend on when it was written."""


def render(run: RunFolder) -> str:
    """The report of a run as one HTML page.

    A pure function of the records in the folder: the same files give the same bytes. What was not
    measured is shown as such.

    Raises:
        StorageError: A record that is there does not fit its schema.
    """
    records = read_records(run)
    return fill(
        "run.html.j2",
        subtitle=_subtitle(records),
        verdict=judge(records),
        limits=limits(records),
        evaluations=[_evaluation(records, one) for one in records.evaluations],
        loss=_loss(records),
        epochs=epochs(records.epochs),
        change=_change(records),
        benchmarks=benchmarks(records.benchmarks) if records.benchmarks else None,
        arms=arm_forest(records.compare) if records.compare else None,
        completions=completions(records.completions),
        completions_review=outcome(records.completions_review, "completions")
        if records.completions_review
        else None,
        judge=judge_rows(records.judge) if records.judge else None,
        latency=latency_rows(records.latency) if records.latency else [],
        prompt_lengths=prompt_lengths(records.latency) if records.latency else [],
        checks=check_rows(records.verify) if records.verify else [],
        onto=onto_rows(records.verify) if records.verify else [],
        worst_layers=worst_layers(records.verify) if records.verify else [],
        exports=exports(records),
        LOGIT_COLUMNS=LOGIT_COLUMNS,
        cost=cost_rows(records),
        **shared(records),
    )


def shared(records: Records) -> dict[str, object]:
    """What every page says of data and provenance."""
    return {
        "r": records,
        "gates": gate_rows(records.data.gates) if records.data else [],
        "found": found_rows(records.data.gates) if records.data else [],
        "review": review_line(records),
        "stages": {
            name: entry
            for name, entry in (records.record.stages if records.record else {}).items()
            if name not in OWN_STAGES
        },
    }


def _subtitle(records: Records) -> list[str]:
    """What was trained from what, in a few words each."""
    recipe = records.recipe
    source = records.origin.base_source if records.origin else recipe and recipe.model.source
    parts = [source] if source else []
    if records.method:
        parts.append(METHODS[records.method])
        if recipe and records.method != "full":
            parts[-1] += f", {equals('r', recipe.adapter.r)}"
    if records.train:
        parts.append(f"{records.train.num_steps:,} steps")
    if records.record:
        parts.append(f"seed {records.record.seed}")
    return parts


def _evaluation(records: Records, evaluation: Evaluation) -> dict[str, object]:
    file = evaluation.file
    classes = class_rows(file)
    return {
        "file": file,
        "metrics": metric_rows(file),
        "measured": how_measured(file),
        "majority": majority(records, file),
        "calibration": calibration(file),
        "classes": classes[:MAX_CLASSES],
        "num_classes": len(classes),
        "confusion": confusion(file),
        "strata": strata(file),
        "answers": answers(evaluation),
    }


def _loss(records: Records) -> dict[str, object] | None:
    if not records.steps:
        return None
    validation = records.train.validation_loss if records.train else None
    return {
        "charts": [loss_chart(records.steps, validation, width) for width in WIDTHS],
        "validation": validation,
        "final": records.train.final_loss if records.train else None,
        "rate": max(step.learning_rate for step in records.steps),
        "thinned": len(records.steps) if len(records.steps) > MAX_POINTS else None,
        "drawn": len(thinned([step.loss for step in records.steps])),
    }


def _change(records: Records) -> dict[str, object] | None:
    layers = records.train.layers if records.train else []
    if not layers:
        return None
    pairs = [(layer.direction_change, layer.magnitude_change) for layer in layers]
    return {
        "charts": change_charts(layers),
        "scatter": scatter_chart("this run", pairs),
        "correlation": _correlation(pairs),
        "num_layers": len(layers),
        "magnitude": median(layer.magnitude_change for layer in layers),
        "direction": median(layer.direction_change for layer in layers),
    }


def _correlation(pairs: list[tuple[float, float]]) -> str | None:
    """Pearson's r; None for a single layer, or where nothing varies."""
    try:
        return plain(correlation([x for x, _ in pairs], [y for _, y in pairs]), 2)
    except StatisticsError:
        return None

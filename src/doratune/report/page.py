"""Records to page."""

from __future__ import annotations

from statistics import median

from jinja2 import Environment, PackageLoader, StrictUndefined

from doratune.record.run_folder import RunFolder
from doratune.record.schemas import SPLITS
from doratune.report import charts, data_tables, tables, text
from doratune.report.records import Records, read_records
from doratune.report.verdict import judge, limits, majority

_TEMPLATES = Environment(
    loader=PackageLoader("doratune.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    name: getattr(text, name)
    for name in ("plain", "percent", "count", "memory", "duration", "small", "short_place")
}
_TEMPLATES.globals |= {"NOT_MEASURED": text.NOT_MEASURED, "SPLITS": SPLITS, "max": max}

METHODS = {"dora": "DoRA", "lora": "LoRA", "full": "full fine-tuning"}


def render(run: RunFolder) -> str:
    """The report of a run as one HTML page.

    A pure function of the records in the folder: the same files give the same bytes. What was not
    measured is shown as such.

    Raises:
        StorageError: A record that is there does not fit its schema.
    """
    records = read_records(run)
    return _TEMPLATES.get_template("report.html.j2").render(
        r=records,
        subtitle=_subtitle(records),
        verdict=judge(records),
        limits=limits(records),
        evaluations=[
            {
                "file": evaluation.file,
                "metrics": tables.metric_rows(evaluation.file),
                "majority": majority(records, evaluation.file),
                "classes": tables.class_rows(evaluation.file),
                "reliability": {
                    model: charts.reliability_chart(figures.bins, model)
                    for model, figures in (
                        ("base", evaluation.file.base),
                        ("tuned", evaluation.file.tuned),
                    )
                    if figures.bins
                },
                "answers": tables.answers(evaluation),
            }
            for evaluation in records.evaluations
        ],
        loss=_loss(records),
        change=_change(records),
        checks=tables.check_rows(records.verify) if records.verify else [],
        worst_layers=tables.worst_layers(records.verify) if records.verify else [],
        gates=data_tables.gate_rows(records.data.gates) if records.data else [],
        found=data_tables.found_rows(records.data.gates) if records.data else [],
        review=data_tables.review_line(records),
        cost=tables.cost_rows(records),
        # The report's own entry would make the page depend on when it was written.
        stages={
            name: entry
            for name, entry in (records.record.stages if records.record else {}).items()
            if name != "report"
        },
    )


def _subtitle(records: Records) -> list[str]:
    """What was trained from what, in a few words each."""
    recipe = records.recipe
    source = records.origin.base_source if records.origin else recipe and recipe.model.source
    parts = [source] if source else []
    if records.method:
        parts.append(METHODS[records.method])
        if recipe and records.method != "full":
            parts[-1] += f", {text.equals('r', recipe.adapter.r)}"
    if records.train:
        parts.append(f"{records.train.num_steps:,} steps")
    if records.record:
        parts.append(f"seed {records.record.seed}")
    return parts


def _loss(records: Records) -> dict[str, object] | None:
    if not records.steps:
        return None
    validation = records.train.validation_loss if records.train else None
    return {
        "charts": [charts.loss_chart(records.steps, validation, width) for width in (900, 380)],
        "validation": validation,
        "final": records.train.final_loss if records.train else None,
        "rate": max(step.learning_rate for step in records.steps),
    }


def _change(records: Records) -> dict[str, object] | None:
    layers = records.train.layers if records.train else []
    if not layers:
        return None
    return {
        "charts": charts.change_charts(layers),
        "num_layers": len(layers),
        "magnitude": median(layer.magnitude_change for layer in layers),
        "direction": median(layer.direction_change for layer in layers),
    }

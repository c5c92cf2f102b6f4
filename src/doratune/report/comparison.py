"""Records to the page of a comparison."""

from __future__ import annotations

from doratune.errors import StorageError
from doratune.record.comparison import CompareFile
from doratune.record.evaluation import METRICS
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Step
from doratune.report.charts.curves import MAX_PANEL_POINTS, panel_charts
from doratune.report.charts.sweep import sweep_charts
from doratune.report.limits import comparison_limits
from doratune.report.page import shared
from doratune.report.records import Records, read_records
from doratune.report.tables.arms import arm_forest, arm_name, arm_rows, metric_table
from doratune.report.tables.changes import correlation_rows, scatters
from doratune.report.tables.jobs import job_rows, sweep_points
from doratune.report.tables.pairs import pair_forest, pair_rows
from doratune.report.template import fill
from doratune.report.text import equals


def render_comparison(run: RunFolder) -> str:
    """The report of a comparison as one HTML page.

    A pure function of the records in the folder, the steps of the final trainings included.

    Raises:
        StorageError: There is no comparison, or a record does not fit its schema.
    """
    records = read_records(run)
    file = records.compare
    if file is None:
        raise StorageError(
            f"{run.compare} is not there, so there is no comparison to report. "
            "Run `doratune compare` first."
        )
    chosen = {arm_name(arm.arm): arm.learning_rate for arm in file.arms}
    return fill(
        "comparison.html.j2",
        c=file,
        subtitle=_subtitle(records, file),
        metric=METRICS[file.primary],
        arms=arm_rows(file),
        names=[arm_name(arm.arm) for arm in file.arms],
        arm_forest=arm_forest(file),
        metrics=metric_table(file),
        pairs=pair_rows(file),
        pair_forest=pair_forest(file) if file.pairs else None,
        sweep=sweep_charts(sweep_points(file), chosen),
        most_points=MAX_PANEL_POINTS,
        curves=panel_charts(_curves(run, file)),
        scatters=scatters(file),
        correlations=correlation_rows(file),
        jobs=job_rows(file),
        limits=comparison_limits(records, file),
        **shared(records),
    )


def _subtitle(records: Records, file: CompareFile) -> list[str]:
    source = records.recipe.model.source if records.recipe else None
    seeds = max((arm.num_seeds for arm in file.arms), default=0)
    return [
        *([source] if source else []),
        f"{len(file.arms)} arms",
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}",
        f"{equals('n', file.num_examples)} of {file.split}",
    ]


def _curves(run: RunFolder, file: CompareFile) -> dict[str, list[list[Step]]]:
    """The steps of the final trainings whose folders are still there, by arm."""
    found: dict[str, list[list[Step]]] = {}
    for job in file.jobs:
        if job.stage == "final" and job.status == "done":
            steps = Step.read_lines(RunFolder(run.jobs / job.name).steps)
            if steps:
                found.setdefault(arm_name(job.arm), []).append(steps)
    return found

"""Every job of an A/B, and the sweep of learning rates."""

from __future__ import annotations

from typing import NamedTuple

from doratune.record.comparison import ARMS, CompareFile, JobRecord
from doratune.report import units
from doratune.report.tables.arms import arm_name
from doratune.report.text import duration, figure, memory


class JobRow(NamedTuple):
    """One training."""

    name: str
    stage: str
    """``final``, the rung of the sweep, or what the base did."""
    steps: str
    status: str
    error: str
    validation_loss: str
    test: str
    time: str
    memory: str


def job_rows(file: CompareFile) -> list[JobRow]:
    """Every training of the comparison, failed ones too."""
    return [
        JobRow(
            job.name,
            _stage(job),
            f"{job.num_steps:,}",
            "diverged" if job.diverged else job.status,
            job.error,
            figure(job.validation_loss) if job.validation_loss is not None else "—",
            units.value(file.primary, job.test_metric) if job.test_metric is not None else "—",
            duration(job.seconds),
            memory(job.peak_memory_bytes) if job.peak_memory_bytes is not None else "—",
        )
        for job in file.jobs
    ]


def _stage(job: JobRecord) -> str:
    if job.arm == "base":
        return "answers only"
    return "final" if job.stage == "final" else f"sweep, rung {job.rung}"


def sweep_points(file: CompareFile) -> dict[str, dict[float, float]]:
    """Validation loss by arm, as it is called on the page, and learning rate."""
    return {
        arm_name(arm): {float(rate): loss for rate, loss in losses.items()}
        for arm in ARMS
        if (losses := file.sweep.get(arm))
    }

"""The arms of an A/B."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from doratune.record.comparison import ARMS, Arm, ArmFigures, CompareFile
from doratune.record.evaluation import METRICS, Interval
from doratune.report import units
from doratune.report.charts.intervals import ForestRow, forest_chart
from doratune.report.text import count, duration, first_upper, memory, rate

FAR = 2.0
"""The base is left out of a forest plot that it would stretch to more than so many times its width."""


class ArmRow(NamedTuple):
    """One arm at its best learning rate."""

    name: str
    about: str
    """Rank, learning rate and seeds."""
    value: tuple[str, str]
    """Figure and interval."""
    per_seed: str
    parameters: str
    time: str
    answering: str
    memory: str


class Forest(NamedTuple):
    """A forest plot."""

    charts: list[Markup]
    note: str
    """What lies outside its scale; empty where all of it is drawn."""


def arm_name(arm: Arm) -> str:
    """What an arm is called at the head of a line."""
    name = ARMS[arm]
    # rsLoRA keeps its small letters.
    return first_upper(name) if name.partition(" ")[0].islower() else name


def arm_rows(file: CompareFile) -> list[ArmRow]:
    """A row for every arm, in the order of the file."""
    return [
        ArmRow(
            arm_name(arm.arm),
            _about(arm),
            (units.value(file.primary, arm.value.value), units.ends(file.primary, arm.value)),
            ", ".join(units.value(file.primary, value) for value in arm.per_seed) or "—",
            count(arm.num_trainable_parameters) if arm.num_trainable_parameters else "—",
            duration(arm.seconds) if arm.seconds is not None else "—",
            duration(arm.answer_seconds) if arm.answer_seconds is not None else "—",
            memory(arm.peak_memory_bytes) if arm.peak_memory_bytes is not None else "—",
        )
        for arm in file.arms
    ]


def _about(arm: ArmFigures) -> str:
    if arm.learning_rate is None:
        return "not trained"
    seeds = f"{arm.num_seeds} seed" + ("s" if arm.num_seeds != 1 else "")
    parts = [f"r {arm.r}"] if arm.r is not None else []
    return ", ".join([*parts, f"learning rate {rate(arm.learning_rate)}", seeds])


def arm_forest(file: CompareFile) -> Forest:
    """The primary metric of all arms, with small dots for single seeds."""
    rows = [
        ForestRow(
            arm_name(arm.arm),
            arm.value,
            _written(file.primary, arm.value),
            "base" if arm.arm == "base" else "tuned",
            arm.per_seed if arm.num_seeds > 1 else (),
        )
        for arm in file.arms
    ]
    return forest_near(
        rows,
        [arm.arm for arm in file.arms],
        f"{METRICS[file.primary].title} of all arms",
        lambda value: units.value(file.primary, value),
    )


def forest_near(
    rows: Sequence[ForestRow],
    arms: Sequence[Arm],
    label: str,
    axis: Callable[[float], str],
    zero: float | None = None,
) -> Forest:
    """A forest plot of one row an arm, without the base where that is far from all others."""
    others = [row for row, arm in zip(rows, arms, strict=True) if arm != "base"]
    base = [row for row, arm in zip(rows, arms, strict=True) if arm == "base"]
    ends = [end for row in others for end in (row.interval.low, row.interval.high)]
    ends += [zero] if zero is not None else []
    room = FAR * (max(ends, default=0.0) - min(ends, default=0.0))
    far = [
        row
        for row in base
        if others and (row.interval.high < min(ends) - room or row.interval.low > max(ends) + room)
    ]
    near = [row for row in rows if row not in far]
    note = "; ".join(f"Off this scale: {row.label}, {row.written}" for row in far)
    return Forest(forest_chart(near, label, axis, zero=zero), note)


def _written(primary: str, interval: Interval) -> str:
    return f"{units.value(primary, interval.value)} ({units.ends(primary, interval)})"


def metric_table(file: CompareFile) -> list[tuple[str, str, list[str]]]:
    """Title, key and the mean of every arm, of the metrics beside the primary one."""
    there = {key for arm in file.arms for key in arm.metrics} - {file.primary}
    return [
        (
            metric.title,
            key,
            [
                units.value(key, arm.metrics[key]) if key in arm.metrics else "—"
                for arm in file.arms
            ],
        )
        for key, metric in METRICS.items()
        if key in there
    ]

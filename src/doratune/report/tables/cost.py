"""What training cost."""

from __future__ import annotations

from collections.abc import Sequence

from doratune.record.schemas import Step, TrainFile
from doratune.report.records import Records
from doratune.report.text import NOT_MEASURED, count, duration, memory, percent


def cost_rows(records: Records) -> list[tuple[str, str, str]]:
    """Name, figure and key of what training cost."""
    train = records.train
    if train is None:
        return []
    return [
        ("Training time", duration(train.seconds), "seconds"),
        ("Optimizer steps", f"{train.num_steps:,}", "num_steps"),
        ("Median step", _median_step(records.steps), "steps.jsonl: seconds"),
        ("Tokens seen", count(train.num_tokens), "num_tokens"),
        ("Tokens per second", _rate(train), "num_tokens / seconds"),
        ("Peak memory", memory(train.peak_memory_bytes), "peak_memory_bytes"),
        ("Trainable parameters", _trainable(train), "num_trainable_parameters"),
        ("Layers on the fast path", _fast(train), "fast_layers, peft_layers"),
        ("Resumed at steps", _listed(train.resumed_from_steps), "resumed_from_steps"),
    ]


def _median_step(steps: Sequence[Step]) -> str:
    seconds = sorted(step.seconds for step in steps)
    return duration(seconds[len(seconds) // 2]) if seconds else NOT_MEASURED


def _rate(train: TrainFile) -> str:
    return count(train.num_tokens / train.seconds) if train.seconds > 0 else NOT_MEASURED


def _trainable(train: TrainFile) -> str:
    share = train.num_trainable_parameters / train.num_parameters if train.num_parameters else 0
    return f"{count(train.num_trainable_parameters)} ({percent(share, 2)})"


def _fast(train: TrainFile) -> str:
    slow = [f"{number} on PEFT's: {reason}" for reason, number in sorted(train.peft_layers.items())]
    return "; ".join([f"{train.fast_layers:,}", *slow])


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps)) or "never"

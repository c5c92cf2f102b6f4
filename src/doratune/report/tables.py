"""The rows of the report's tables, figures already in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from doratune.record.evaluation import ClassFigures, EvalFile, Interval, Sample
from doratune.record.schemas import LayerCheck, Step, TrainFile, VerifyFile
from doratune.report.charts import interval_chart
from doratune.report.records import Evaluation, Records
from doratune.report.text import (
    NOT_MEASURED,
    clipped,
    count,
    duration,
    equals,
    memory,
    p_value,
    percent,
    percent_range,
    plain,
    plain_range,
    points,
    points_range,
    signed,
    small,
)


class MetricRow(NamedTuple):
    """One metric of base and tuned."""

    name: str
    key: str
    better: str
    """``higher`` or ``lower``."""
    base: tuple[str, str]
    """Value and interval."""
    tuned: tuple[str, str]
    difference: tuple[str, str]
    """Value, and interval or the reason why there is none."""
    about: str
    """n and how the intervals were made."""
    chart: Markup


def metric_rows(file: EvalFile) -> list[MetricRow]:
    """A row for every metric that both models have."""
    tested = "accuracy" if file.kind == "labels" else "exact_match"
    metrics = (
        ("Accuracy", "accuracy", "higher", True),
        ("Exact match", "exact_match", "higher", True),
        ("Macro-F1", "macro_f1", "higher", False),
        ("Calibration error (ECE)", "ece", "lower", False),
        ("Answer NLL, nats per token", "answer_nll", "lower", False),
    )
    rows = []
    for name, key, better, as_share in metrics:
        base: Interval | None = getattr(file.base, key)
        tuned: Interval | None = getattr(file.tuned, key)
        if base is None or tuned is None:
            continue
        written = _share if as_share else _plain
        rows.append(
            MetricRow(
                name,
                key,
                better,
                written(base),
                written(tuned),
                _difference(file, base, tuned, key == tested),
                f"{equals('n', tuned.n)}, {tuned.method}",
                interval_chart(
                    base, tuned, max(base.high, tuned.high) if key == "answer_nll" else 1
                ),
            )
        )
    return rows


def _share(interval: Interval) -> tuple[str, str]:
    return percent(interval.value), percent_range(interval)


def _plain(interval: Interval) -> tuple[str, str]:
    return plain(interval.value), plain_range(interval)


def _difference(file: EvalFile, base: Interval, tuned: Interval, tested: bool) -> tuple[str, str]:
    if not tested:
        return signed(tuned.value - base.value), "no paired test"
    paired = file.difference.value
    return (
        f"{points(paired.value)} points",
        f"{points_range(paired)}, McNemar {p_value(file.difference.p_value)}",
    )


def class_rows(file: EvalFile) -> list[tuple[str, ClassFigures | None, ClassFigures | None]]:
    """Label, figures of base, figures of tuned; the most frequent label first."""
    base = {row.label: row for row in file.base.classes}
    tuned = {row.label: row for row in file.tuned.classes}
    support = {label: row.support for label, row in {**base, **tuned}.items()}
    return [
        (label, base.get(label), tuned.get(label))
        for label in sorted(support, key=lambda name: (-support[name], name))
    ]


class Answer(NamedTuple):
    """What one model said to an example."""

    text: str
    correct: bool
    probability: str
    """Among the labels; empty for open tasks."""


class Shown(NamedTuple):
    """One example of the report."""

    outcome: str
    """``fixed``, ``broken``, ``both wrong`` or ``both right``."""
    id: str
    prompt: str
    reference: str
    base: Answer
    tuned: Answer


class Answers(NamedTuple):
    """Examples, and how many there are of each outcome."""

    tally: dict[str, int]
    shared: str
    """Last paragraph of the prompt, where all prompts end the same; it is left out of each."""
    shown: list[Shown]


def answers(evaluation: Evaluation, most: int = 8) -> Answers:
    """Chooses examples: three fixed, three broken, two wrong in both, and what is there to fill up.

    Within an outcome they are taken by id, which is a hash: nobody picked them.
    """
    rows = {(sample.id, sample.model): sample for sample in evaluation.samples}
    pairs: dict[str, list[tuple[Sample, Sample]]] = {
        outcome: [] for outcome in ("fixed", "broken", "both wrong", "both right")
    }
    for sample_id in sorted({sample.id for sample in evaluation.samples}):
        base, tuned = rows.get((sample_id, "base")), rows.get((sample_id, "tuned"))
        if base and tuned:
            pairs[_outcome(base, tuned)].append((base, tuned))
    first = {"fixed": 3, "broken": 3, "both wrong": 2, "both right": 0}
    chosen = {outcome: found[: first[outcome]] for outcome, found in pairs.items()}
    for outcome, found in pairs.items():
        free = most - sum(map(len, chosen.values()))
        chosen[outcome] = found[: len(chosen[outcome]) + free]
    prompts = {id: example.prompt[-1].content for id, example in evaluation.examples.items()}
    endings = {text.rpartition("\n\n")[2] for text in prompts.values()}
    shared = endings.pop() if len(endings) == 1 and len(prompts) > 1 else ""
    return Answers(
        {outcome: len(found) for outcome, found in pairs.items()},
        shared,
        [
            _shown(outcome, base, tuned, prompts.get(base.id, "").removesuffix(shared).strip())
            for outcome, found in chosen.items()
            for base, tuned in found
        ],
    )


def _outcome(base: Sample, tuned: Sample) -> str:
    if base.correct == tuned.correct:
        return "both right" if tuned.correct else "both wrong"
    return "fixed" if tuned.correct else "broken"


def _shown(outcome: str, base: Sample, tuned: Sample, prompt: str) -> Shown:
    return Shown(
        outcome,
        base.id,
        clipped(prompt, 600),
        clipped(base.reference, 300),
        *(
            Answer(clipped(sample.prediction, 300), sample.correct, _probability(sample))
            for sample in (base, tuned)
        ),
    )


def _probability(sample: Sample) -> str:
    logprobs = sample.label_logprobs
    if not logprobs or sample.prediction not in logprobs:
        return ""
    total = math.fsum(math.exp(value - max(logprobs.values())) for value in logprobs.values())
    return percent(math.exp(logprobs[sample.prediction] - max(logprobs.values())) / total, 0)


class CheckRow(NamedTuple):
    """One figure of the verification against its threshold."""

    name: str
    key: str
    value: str
    allowed: str
    passed: bool | None
    """None where no threshold is set."""


_CHECKS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Largest difference of a logit", "max_abs_difference", small),
    ("Mean difference of a logit", "mean_abs_difference", small),
    ("KL divergence, mean, nats", "mean_kl", small),
    ("KL divergence, largest, nats", "max_kl", small),
    ("Same most likely token", "top1_agreement", lambda share: percent(share, 2)),
    ("Weight error of the worst layer", "weight_error", small),
    ("Norm error of the worst layer", "norm_error", small),
)


def check_rows(verify: VerifyFile) -> list[CheckRow]:
    """The figures of the verification; agreement must reach its threshold, others stay under."""
    worst = {
        "weight_error": [layer.weight_error for layer in verify.layers],
        "norm_error": [e for layer in verify.layers if (e := layer.norm_error) is not None],
    }
    rows = []
    for name, key, written in _CHECKS:
        value = max(worst[key], default=None) if key in worst else getattr(verify, key)
        # A stage may name the threshold of a layer figure after its maximum.
        allowed = verify.thresholds.get(key, verify.thresholds.get(f"max_{key}"))
        at_least = key == "top1_agreement"
        passed = None
        if allowed is not None and value is not None:
            passed = value >= allowed if at_least else value <= allowed
        rows.append(
            CheckRow(
                name,
                key if key not in worst else f"layers.{key}",
                written(value) if value is not None else NOT_MEASURED,
                f"{'≥' if at_least else '≤'} {written(allowed)}" if allowed is not None else "—",
                passed,
            )
        )
    return rows


def worst_layers(verify: VerifyFile, most: int = 5) -> list[LayerCheck]:
    """The layers with the largest weight error."""
    return sorted(verify.layers, key=lambda layer: (-layer.weight_error, layer.layer))[:most]


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

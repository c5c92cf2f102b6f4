"""What public benchmarks and texts from elsewhere say: base and tuned, paired by question."""

from __future__ import annotations

from doratune.record.evaluation import Interval, Model
from doratune.record.schemas import Record, RunFile


class SubjectFigures(Record):
    """One subject of a benchmark."""

    subject: str
    num_questions: int
    base: float
    """Share of right answers."""
    tuned: float
    difference: Interval
    """Tuned minus base, paired by question."""


class BenchmarkFigures(Record):
    """One benchmark."""

    benchmark: str
    """Name of the lm-eval task or group, such as ``mmlu``."""
    version: str
    """lm-eval's version of the task, and of lm-eval."""
    metric: str
    """lm-eval's name, such as ``acc`` or ``acc_norm``."""
    num_fewshot: int
    num_questions: int
    num_available: int
    """Questions of the whole benchmark; more than ``num_questions`` where a subset was asked."""
    base: Interval
    tuned: Interval
    difference: Interval
    """Tuned minus base, paired by question."""
    p_value: float
    """Exact McNemar test."""
    smallest_detectable: float
    """Smallest true difference that this many questions would show (two-sided 5 %, power 80 %)."""
    passed: bool
    """Whether the drop is within the recipe's ``max_drop_points``."""
    subjects: list[SubjectFigures] = []
    """For a group of tasks."""


class OutOfDomain(Record):
    """Texts that have nothing to do with the task."""

    source: str
    digest: str
    num_texts: int
    num_tokens: int
    base: Interval
    """Perplexity."""
    tuned: Interval
    ratio: Interval
    """Tuned over base, paired by text."""


class BenchmarksFile(RunFile):
    """``benchmarks.json``: what became of abilities that were not trained."""

    max_drop_points: float
    benchmarks: list[BenchmarkFigures]
    out_of_domain: OutOfDomain | None = None
    passed: bool
    """Whether all of them passed."""
    seconds: float


class BenchmarkSample(Record):
    """One line of ``benchmarks.samples.jsonl``: one model on one question."""

    benchmark: str
    subject: str
    question: int
    """Its number in lm-eval's task."""
    digest: str
    """lm-eval's hash of the question."""
    model: Model
    choice: int | None
    """Index of the answer chosen; None for generated answers."""
    correct: bool
    logprobs: list[float] = []
    """Of each choice, nats."""

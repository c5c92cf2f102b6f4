"""How long base, sidecar and merged model take to answer."""

from __future__ import annotations

from typing import NamedTuple

from doratune.record.latency import LATENCY_MODELS, LatencyFile, ModelLatency, Spread
from doratune.report.text import count, figure, memory, plain


class LatencyRow(NamedTuple):
    """One model."""

    name: str
    prefill: list[tuple[str, str]]
    """Milliseconds with their spread, and tokens per second, for each length of prompt."""
    decode: str
    """Milliseconds per token with their spread."""
    ratio: str
    """Decoding time over the base's."""
    memory: str


def prompt_lengths(file: LatencyFile) -> list[int]:
    """Tokens of the prompts that were read, the same for all models."""
    first = next(iter(file.models.values()), None)
    return [figures.num_tokens for figures in first.prefill] if first else []


def latency_rows(file: LatencyFile) -> list[LatencyRow]:
    """A row for every model that was measured, the base first."""
    base = file.models.get("base")
    return [
        LatencyRow(
            name,
            [
                (_spread(row.milliseconds), f"{count(row.tokens_per_second)} tokens/s")
                for row in one.prefill
            ],
            _spread(one.decode_milliseconds),
            _ratio(one, base),
            memory(one.num_bytes),
        )
        for name in LATENCY_MODELS
        if (one := file.models.get(name))
    ]


def _spread(spread: Spread) -> str:
    return f"{figure(spread.median)} ({figure(spread.p20)} to {figure(spread.p80)})"


def _ratio(one: ModelLatency, base: ModelLatency | None) -> str:
    if base is None or one is base or not base.decode_milliseconds.median:
        return "—"
    return plain(one.decode_milliseconds.median / base.decode_milliseconds.median, 2)

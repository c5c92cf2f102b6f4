"""What does greedy decoding cost, one token at a time, eval mode, batch 1, with a key-value cache?

Timed: `TOKENS` steps after a prompt of `PROMPT` tokens; the prompt itself is not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import train_step
from benchmarks.parts import gate
from benchmarks.parts.models import has_fast_bfloat16, parse_dtype
from benchmarks.parts.providers import EVERYBODY, PEERS, adapted
from benchmarks.parts.rows import Row, rows_of
from benchmarks.parts.timing import Action, take_turns

SECONDS = 120
TOKENS, PROMPT = 8, 32


class Setting(NamedTuple):
    """One model."""

    model: str
    dtype: str
    r: int = 16

    def __str__(self) -> str:
        return f"{self.model}, {self.dtype}, r {self.r}"


def settings(device: str, quick: bool) -> list[Setting]:
    """The most valuable first."""
    if quick:
        return [Setting("toy", "float32", 4)]
    if device == "cuda":
        return [Setting("Llama-3.1-8B", "bfloat16"), Setting("SmolLM2-135M", "bfloat16")]
    dtypes = ["float32", "bfloat16"] if has_fast_bfloat16(device) else ["float32"]
    return [Setting("SmolLM2-135M", dtype) for dtype in dtypes]


def measure(setting: Setting, device: str, seconds: float) -> list[Row]:
    """Rows of one setting."""
    dtype = parse_dtype(setting.dtype)
    base = train_step.load(setting.model, dtype, device)
    prompt = train_step.token_ids(base, 1, PROMPT).to(device)
    big = base.num_parameters() > 1e9
    small = train_step.two_layers(setting.model, dtype, device) if big else base
    checked = {name: adapted(small, name, setting.r).eval() for name in EVERYBODY}
    gate.check(small, checked, gate.ids_run(prompt), setting.r, evaluating=True)
    del checked
    models = {name: adapted(base, name, setting.r).eval() for name in EVERYBODY}
    actions = {name: _decode(model, prompt) for name, model in models.items()}
    samples = take_turns(actions, seconds, device)
    return rows_of(
        {name: [figure / TOKENS for figure in figures] for name, figures in samples.items()},
        benchmark="decode",
        op="model",
        shape=f"{setting.model}, batch 1, token {PROMPT + 1} to {PROMPT + TOKENS}, r {setting.r}",
        dtype=setting.dtype,
        dropout=0.0,
        metric="token",
        unit="s",
        device=device,
        peers=PEERS,
    )


def _decode(model: nn.Module, prompt: Tensor) -> Action:
    """Decoding on the clock; off it, the cache is cut back to the prompt."""
    with torch.no_grad():
        output = model(input_ids=prompt, use_cache=True)
    cache, first = output.past_key_values, output.logits[:, -1:].argmax(-1)

    @torch.no_grad()
    def run() -> None:
        token = first
        for _ in range(TOKENS):
            step = model(input_ids=token, past_key_values=cache, use_cache=True)
            token = step.logits[:, -1:].argmax(-1)

    def cut() -> None:
        cache.crop(-TOKENS)

    return Action(run, cut)

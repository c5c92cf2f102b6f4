"""What does a training step of a whole model cost, against LoRA and other DoRA?

Timed: forward, backward, fused AdamW on all adapters, zero_grad. All linear layers, r 16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.parts import gate
from benchmarks.parts.models import has_fast_bfloat16, llama, parse_dtype, smollm2
from benchmarks.parts.providers import EVERYBODY, PEERS, adapted, parameters
from benchmarks.parts.rows import Row, rows_of
from benchmarks.parts.timing import Action, take_turns

SECONDS = 480
GATE_LENGTH = 32


class Setting(NamedTuple):
    """One model, one batch."""

    model: str
    batch: int
    length: int
    dtype: str
    dropout: float
    r: int = 16
    providers: tuple[str, ...] = EVERYBODY

    def __str__(self) -> str:
        return f"{self.shape()}, {self.dtype}, dropout {self.dropout}"

    def shape(self) -> str:
        """Sizes, in words."""
        return f"{self.model}, batch {self.batch} x {self.length} tokens, r {self.r}"


def settings(device: str, quick: bool) -> list[Setting]:
    """The most valuable first."""
    if quick:
        return [Setting("toy", 2, 16, "float32", 0.05, 4)]
    if device == "cuda":
        return [
            Setting(model, batch, length, "bfloat16", dropout)
            for model, batch, length in (
                ("Llama-3.1-8B", 1, 2048),
                ("Llama-3.1-8B", 4, 2048),
                ("Llama-2-7B", 1, 2048),
                ("SmolLM2-135M", 8, 512),
            )
            for dropout in (0.0, 0.05)
        ]
    dtypes = ["float32", "bfloat16"] if has_fast_bfloat16(device) else ["float32"]
    return [
        Setting("SmolLM2-135M", batch, 128, dtype, dropout, providers=providers)
        for dtype in dtypes
        for batch, providers in ((4, EVERYBODY), (8, EVERYBODY[:4]))  # minutes a round otherwise
        for dropout in (0.0, 0.05)
    ]


def measure(setting: Setting, device: str, seconds: float) -> list[Row]:
    """Rows of one setting."""
    dtype = parse_dtype(setting.dtype)
    base = load(setting.model, dtype, device)
    ids = token_ids(base, setting.batch, setting.length).to(device)
    run_gate(setting, dtype, device, base, ids, setting.providers)
    models = {name: adapted(base, name, setting.r, setting.dropout) for name in setting.providers}
    return time_steps("train_step", "model", setting, models, ids, device, seconds, PEERS)


def time_steps(
    benchmark: str,
    op: str,
    setting: Setting,
    models: Mapping[str, nn.Module],
    ids: torch.Tensor,
    device: str,
    seconds: float,
    peers: Sequence[str],
) -> list[Row]:
    """Rows of training steps of these models, by provider, in turns."""
    actions = {name: Action(step(model, ids)) for name, model in models.items()}
    return rows_of(
        take_turns(actions, seconds, device),
        benchmark=benchmark,
        op=op,
        shape=setting.shape(),
        dtype=setting.dtype,
        dropout=setting.dropout,
        metric="step",
        unit="s",
        device=device,
        peers=peers,
    )


def load(model: str, dtype: torch.dtype, device: str, **changes: int) -> nn.Module:
    """The real SmolLM2 on the CPU; random weights elsewhere, where no checkpoint need be at hand."""
    if model == "SmolLM2-135M" and device == "cpu" and not changes:
        return smollm2(dtype, device)
    return llama(model, dtype, device, **changes)


def token_ids(base: nn.Module, batch: int, length: int) -> torch.Tensor:
    """The same random tokens every time."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, base.config.vocab_size, (batch, length), generator=draw)


def two_layers(model: str, dtype: torch.dtype, device: str) -> nn.Module:
    """A model for the gate, where float64 of the whole one would not fit."""
    return llama(model, dtype, device, num_hidden_layers=2)


def run_gate(
    setting: Setting,
    dtype: torch.dtype,
    device: str,
    base: nn.Module,
    ids: torch.Tensor,
    providers: Sequence[str],
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> None:
    """On the model itself, or on its first two layers where float64 would not fit beside it."""
    small = base if base.num_parameters() < 1e9 else two_layers(setting.model, dtype, device)
    models = {name: prepare(adapted(small, name, setting.r, setting.dropout)) for name in providers}
    gate.check(small, models, gate.ids_run(ids[:1, :GATE_LENGTH]), setting.r)


def step(model: nn.Module, ids: torch.Tensor) -> Callable[[], None]:
    """One forward, backward and update, as a function."""
    optimizer = torch.optim.AdamW(parameters(model), lr=1e-6, fused=True)

    def run() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run

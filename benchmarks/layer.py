"""What does forward and backward of one linear layer cost, against LoRA and other DoRA?

Timed: forward and backward, input gradient included, adapters float32 as PEFT makes them. An
optimizer step lies between any two of them, outside the clock, so that the weight norm is paid for
each time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.parts import gate, torchtune_dora
from benchmarks.parts.models import OneLayer, has_fast_bfloat16, noise, parse_dtype
from benchmarks.parts.providers import (
    EVERYBODY,
    PEERS,
    PEFT_DORA,
    PEFT_LORA,
    adapted,
    parameters,
)
from benchmarks.parts.rows import OURS, Row, rows_of
from benchmarks.parts.timing import Action, take_turns

SECONDS = 225
LLAMA = ((4096, 4096), (4096, 14336), (14336, 4096), (4096, 11008), (11008, 4096))
GATE_TOKENS = 16


class Setting(NamedTuple):
    """One layer, one batch."""

    in_features: int
    out_features: int
    tokens: int
    r: int = 16
    dtype: str = "float32"
    dropout: float = 0.0
    providers: tuple[str, ...] = (*EVERYBODY, torchtune_dora.NAME)

    def __str__(self) -> str:
        size = f"{self.in_features} to {self.out_features}, {self.tokens} tokens, r {self.r}"
        return f"{size}, {self.dtype}, dropout {self.dropout}"


def settings(device: str, quick: bool) -> list[Setting]:
    """The most valuable first."""
    if quick:
        return [Setting(48, 32, 20, 4, dropout=0.05)]
    if device == "cpu":
        small = [Setting(4096, 4096, t, dropout=p) for p in (0.0, 0.05) for t in (512, 2048)]
        if has_fast_bfloat16(device):
            return small + [s._replace(dtype="bfloat16") for s in small]
        # Emulated bf16: a backward takes half a minute, so few rounds of the two that matter.
        slow = Setting(4096, 4096, 512, dtype="bfloat16", providers=(PEFT_LORA, OURS))
        return [*small, slow]
    tokens = (8192, 2048, 4096, 16384)
    every = [
        Setting(i, o, t, dtype="bfloat16", dropout=p)
        for p in (0.0, 0.05)
        for t in tokens
        for i, o in LLAMA
    ]
    ranks = [s._replace(r=r) for s in every if not s.dropout and s.tokens <= 8192 for r in (64, 8)]
    single = [s._replace(dtype="float32") for s in every[:3]]
    return every + ranks + single


def measure(setting: Setting, device: str, seconds: float) -> list[Row]:
    """Rows of one setting."""
    dtype = parse_dtype(setting.dtype)
    base = OneLayer(setting.in_features, setting.out_features, dtype, device)
    models = {
        name: adapted(base, name, setting.r, setting.dropout, targets="linear")
        for name in setting.providers
        if name != torchtune_dora.NAME
    }
    if torchtune_dora.NAME in setting.providers and torchtune_dora.is_installed():
        models[torchtune_dora.NAME] = torchtune_dora.like(models[PEFT_DORA], setting.dropout)
    x = noise((setting.tokens, setting.in_features), device, 1)
    dy = noise((setting.tokens, setting.out_features), device, 2)
    few = gate.layer_run(x[:GATE_TOKENS], dy[:GATE_TOKENS])
    gate.check(base, models, few, setting.r, targets="linear")
    actions = {name: step(model, x.to(dtype), dy.to(dtype)) for name, model in models.items()}
    return rows_of(
        take_turns(actions, seconds, device),
        benchmark="layer",
        op="linear",
        shape=f"{setting.in_features} to {setting.out_features}, {setting.tokens} tokens, r {setting.r}",
        dtype=setting.dtype,
        dropout=setting.dropout,
        metric="forward_backward",
        unit="s",
        device=device,
        peers=(*PEERS, torchtune_dora.NAME),
    )


def step(model: nn.Module, x: Tensor, dy: Tensor) -> Action:
    """Forward and backward on the clock, the optimizer off it."""
    leaf = x.clone().requires_grad_()
    optimizer = torch.optim.AdamW(parameters(model), lr=1e-6, fused=True)

    def forward_backward() -> None:
        model(leaf).backward(dy)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()
        leaf.grad = None

    return Action(forward_backward, update)

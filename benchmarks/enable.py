"""What does `enable_fast_dora` cost on a model of 7B shape, against one read of the same weights?

The model is the linear layers of as many Llama-2-7B decoder layers as 8 GB hold, bf16, each with
weights of its own. One read is `torch.sum` over every weight as it lies in memory, bf16 in and out,
in slices of `READ_ELEMENTS`; "one read as integers" sums the same bytes as int64, the cheapest
arithmetic there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

import doratune
from benchmarks.parts import gate
from benchmarks.parts.models import Projections
from benchmarks.parts.providers import PEFT_DORA, adapted
from benchmarks.parts.rows import OURS, Row, rows_of
from benchmarks.parts.timing import Action, take_turns

SECONDS = 120
READ_ELEMENTS = 1 << 22
ONE_READ, INTEGER_READ = "one read", "one read as integers"


class Setting(NamedTuple):
    """A stack of decoder layers."""

    num_layers: int
    hidden: int = 4096
    inner: int = 11008

    def __str__(self) -> str:
        elements = self.num_layers * (4 * self.hidden**2 + 3 * self.hidden * self.inner)
        return f"{self.num_layers} decoder layers, {2 * elements / 1e9:.2g} GB of weights"


def settings(device: str, quick: bool) -> list[Setting]:
    """One."""
    return [Setting(2, 64, 96) if quick else Setting(32 if device == "cuda" else 19)]


def measure(setting: Setting, device: str, seconds: float) -> list[Row]:
    """Rows of one setting."""
    base = Projections(*setting).to(device)
    targets = r".*_proj"
    model = adapted(base, PEFT_DORA, 16, targets=targets, trained=False)
    weights = [p for p in base.parameters() if p.dim() == 2]

    def enable() -> None:
        doratune.enable_fast_dora(model)

    enable()
    _check(model)
    actions = {
        ONE_READ: Action(lambda: _read(weights, lambda piece: piece.sum())),
        INTEGER_READ: Action(lambda: _read(weights, lambda piece: piece.view(torch.int64).sum())),
        OURS: Action(enable, lambda: doratune.disable_fast_dora(model)),
    }
    return rows_of(
        take_turns(actions, seconds, device),
        benchmark="enable",
        op="enable_fast_dora",
        shape=f"Llama-2-7B, {setting}",
        dtype="bfloat16",
        dropout=0.0,
        metric="enable",
        unit="s",
        device=device,
        peers=(ONE_READ, INTEGER_READ),
    )


def _read(
    weights: list[nn.Parameter], take: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    return [take(piece) for w in weights for piece in w.detach().flatten().split(READ_ELEMENTS)]


def _check(model: nn.Module) -> None:
    """A fresh magnitude must be the norm of the weight, as exactly as plain float32 code takes it."""
    for layer in [m for m in model.modules() if isinstance(m, LoraLayer)][:7]:
        weight = layer.get_base_layer().weight.detach()
        found = layer.lora_magnitude_vector["default"].weight.detach().double()
        exact = weight.double().norm(dim=1)
        allowed = (weight.float().norm(dim=1).double() - exact).norm()
        # Where plain code happens to be exact: half a float32 rounding of each norm.
        allowed = gate.FACTOR * max(allowed, exact.norm() * torch.finfo(torch.float32).eps / 2)
        if not (found - exact).norm() <= allowed:
            raise gate.RedGateError(f"magnitudes are {(found - exact).norm():.2e} from the norms")

"""The trainings that loss_curves.py compares: whose layers, in which arithmetic, from which start."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.mixed_precision import Bf16Products, remedy
from benchmarks.parts.models import has_fast_bfloat16
from benchmarks.parts.providers import PEFT_DORA, PEFT_LORA, adapted, is_dora
from benchmarks.parts.rows import OURS


class Arm(NamedTuple):
    """One training."""

    provider: str
    dtype: str
    change: str = ""
    """Of one detail: a remedy, or ``"A +- 1 ulp"``, or ``"exact magnitude"``."""

    def __str__(self) -> str:
        return f"{self.provider}, {self.dtype}" + (f", {self.change}" if self.change else "")

    def compared_with(self) -> Arm:
        """float32 of the same method. Of DoRA it is doratune's, the quicker; its own twin is PEFT's."""
        if not is_dora(self.provider):
            return Arm(PEFT_LORA, "float32")
        return Arm(PEFT_DORA if self.dtype == "float32" else OURS, "float32")


PERTURBED, EXACT_MAGNITUDE = "A +- 1 ulp", "exact magnitude"
ARMS = (
    Arm(PEFT_DORA, "float32"),
    Arm(PEFT_DORA, "float32", PERTURBED),
    Arm(OURS, "float32"),
    Arm(PEFT_LORA, "float32"),
    Arm(PEFT_LORA, "bfloat16"),
    Arm(OURS, "bfloat16"),
    Arm(PEFT_DORA, "bfloat16"),
    Arm(PEFT_LORA, "bfloat16", PERTURBED),
    Arm(OURS, "bfloat16", "two roundings"),
    Arm(OURS, "bfloat16", "stochastic rounding"),
    Arm(PEFT_DORA, "bfloat16", EXACT_MAGNITUDE),
)
REPEATED = (
    Arm(PEFT_LORA, "float32"),
    Arm(OURS, "float32"),
    Arm(PEFT_LORA, "bfloat16"),
    Arm(OURS, "bfloat16"),
    Arm(PEFT_DORA, "bfloat16"),
)
"""What the seeds after the first run."""


def prepare(base: nn.Module, arm: Arm, r: int, seed: int = 0) -> nn.Module:
    """The arm's model at step 0: the same A in every arm of a seed, to the last bit."""
    model = adapted(base, arm.provider, r, trained=False)
    draw = torch.Generator().manual_seed(2 * seed)
    signs = torch.Generator().manual_seed(2 * seed + 1)
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith("lora_A.default"):
                A_RI = module.weight
                bound = A_RI.shape[1] ** -0.5  # PEFT's kaiming_uniform_(a=sqrt(5))
                A_RI.copy_((torch.rand(A_RI.shape, generator=draw) * 2 - 1) * bound)
                if arm.change == PERTURBED:
                    up = torch.rand(A_RI.shape, generator=signs) < 0.5
                    A_RI.copy_(A_RI.nextafter(torch.where(up, torch.inf, -torch.inf)))
            if arm.change == EXACT_MAGNITUDE and name.endswith("lora_magnitude_vector.default"):
                layer = model.get_submodule(name.removesuffix(".lora_magnitude_vector.default"))
                module.weight.copy_(layer.base_layer.weight.float().norm(dim=1))
    return model


def arithmetic(base: nn.Module, arm: Arm) -> ExitStack:
    """Context in which the arm computes: bf16 is emulated where the CPU would take minutes a step."""
    stack = ExitStack()
    if arm.dtype == "bfloat16" and not has_fast_bfloat16("cpu"):
        stack.enter_context(Bf16Products(base.parameters()))
    stack.enter_context(remedy(arm.change))
    return stack


@torch.no_grad()
def distance(values: list[Tensor], others: list[Tensor]) -> dict[str, float]:
    """Of two adapters, in units of the second's norm, over all layers: of the updates B A, and of m.

    Args:
        values: As `parameters` orders them: every A, every B and, of DoRA, every magnitude.
        others: Of the second adapter.
    """
    kinds = 3 if values[-1].dim() == 1 else 2
    apart = {"update": [0.0, 0.0], "magnitude": [0.0, 0.0]}
    for layer in zip(*(chunk(both, kinds) for both in (values, others)), strict=True):
        (A, B, *m), (other_A, other_B, *other_m) = ([t.double() for t in ts] for ts in layer)
        pairs = {"update": (B @ A, other_B @ other_A)}
        if m:
            pairs["magnitude"] = (m[0], other_m[0])
        for name, (mine, theirs) in pairs.items():
            apart[name][0] += (mine - theirs).square().sum().item()
            apart[name][1] += theirs.square().sum().item()
    return {name: (off / size) ** 0.5 for name, (off, size) in apart.items() if size}


def chunk(values: list[Tensor], kinds: int) -> list[tuple[Tensor, ...]]:
    """By layer what came by kind."""
    layers = len(values) // kinds
    return list(zip(*(values[k * layers : (k + 1) * layers] for k in range(kinds)), strict=True))

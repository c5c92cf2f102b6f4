"""What does a training step under `torch.compile` cost, against PEFT's LoRA under it?"""

from __future__ import annotations

import shutil

import torch

from benchmarks import train_step
from benchmarks.parts.models import llama, parse_dtype
from benchmarks.parts.providers import PEFT_DORA, PEFT_LORA, adapted
from benchmarks.parts.rows import OURS, Row
from benchmarks.train_step import Setting

SECONDS = 60
LAYERS = 2
PROVIDERS = (PEFT_LORA, PEFT_DORA, OURS)


def why_not() -> str | None:
    """Why it cannot run here."""
    return None if shutil.which("g++") else "torch.compile needs a C++ compiler, and there is none"


def settings(device: str, quick: bool) -> list[Setting]:
    """The most valuable first."""
    if quick:
        return [Setting("toy", 2, 16, "float32", 0.0, 4)]
    if device == "cuda":
        return [Setting("Llama-3.1-8B", 1, 2048, "bfloat16", p) for p in (0.0, 0.05)]
    return [Setting("SmolLM2-135M", 4, 128, "float32", p) for p in (0.0, 0.05)]


def measure(setting: Setting, device: str, seconds: float) -> list[Row]:
    """Rows of one setting."""
    dtype = parse_dtype(setting.dtype)
    base = llama(setting.model, dtype, device, num_hidden_layers=LAYERS)
    ids = train_step.token_ids(base, setting.batch, setting.length).to(device)
    train_step.run_gate(setting, dtype, device, base, ids, PROVIDERS, torch.compile)
    torch.compiler.reset()
    models = {
        name: torch.compile(adapted(base, name, setting.r, setting.dropout)) for name in PROVIDERS
    }
    op = f"model of {LAYERS} layers, compiled"
    peers = PROVIDERS[:2]
    return train_step.time_steps("compile", op, setting, models, ids, device, seconds, peers)

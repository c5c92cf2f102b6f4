"""What does a training step on an NF4 base (bitsandbytes) cost, against QLoRA and QDoRA of PEFT?

As train_step.py. The correctness gate compares with the float64 model of the dequantised weights.
"""

from __future__ import annotations

import importlib.util

from benchmarks import train_step
from benchmarks.parts import gate
from benchmarks.parts.models import has_fast_bfloat16, parse_dtype, to_nf4
from benchmarks.parts.providers import PEFT_DORA, PEFT_LORA, adapted
from benchmarks.parts.rows import OURS, Row
from benchmarks.train_step import Setting

SECONDS = 200
PROVIDERS = (PEFT_LORA, PEFT_DORA, OURS)


def why_not() -> str | None:
    """Why it cannot run here."""
    return None if importlib.util.find_spec("bitsandbytes") else "bitsandbytes is not installed"


def settings(device: str, quick: bool) -> list[Setting]:
    """The most valuable first."""
    if quick:
        return [Setting("toy", 2, 16, "float32", 0.05, 4)]
    if device == "cuda":
        sizes = [("Llama-3.1-8B", 1, 2048, "bfloat16"), ("Llama-3.1-8B", 4, 2048, "bfloat16")]
    else:
        dtypes = ["float32", "bfloat16"] if has_fast_bfloat16(device) else ["float32"]
        sizes = [("SmolLM2-135M", 4, 128, dtype) for dtype in dtypes]
    return [Setting(*size, dropout) for size in sizes for dropout in (0.0, 0.05)]


def measure(setting: Setting, device: str, seconds: float) -> list[Row]:
    """Rows of one setting."""
    dtype = parse_dtype(setting.dtype)
    base = train_step.load(setting.model, dtype, device)
    ids = train_step.token_ids(base, setting.batch, setting.length).to(device)
    few = gate.ids_run(ids[:1, : train_step.GATE_LENGTH])
    big = base.num_parameters() > 1e9
    small = train_step.two_layers(setting.model, dtype, device) if big else base
    quantized, dense = to_nf4(small)
    checked = {name: adapted(quantized, name, setting.r, setting.dropout) for name in PROVIDERS}
    gate.check(dense, checked, few, setting.r)
    del dense, checked
    if big:
        quantized = to_nf4(base)[0]
    models = {name: adapted(quantized, name, setting.r, setting.dropout) for name in PROVIDERS}
    op = "model, NF4"
    peers = PROVIDERS[:2]
    return train_step.time_steps("quantized_step", op, setting, models, ids, device, seconds, peers)

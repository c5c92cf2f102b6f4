"""How much memory does training take, against LoRA?

``saved``: bytes that forward keeps for backward, by `torch.autograd.graph.saved_tensors_hooks`;
every storage once, weights and other parameters not counted. Of one linear layer alone, and of a
whole model per adapted layer, where an output that the next operation keeps anyway is not counted
twice.

``step_peak``: the most bytes that one training step holds beyond what the model and its optimizer
hold between steps. On the CPU it is the running sum of the allocator's events; CUDA counts by
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from benchmarks import layer, train_step
from benchmarks.parts import gate
from benchmarks.parts.models import OneLayer, noise, parse_dtype
from benchmarks.parts.providers import EVERYBODY, FUSED_LORA, PEERS, PEFT_DORA, PEFT_LORA, adapted
from benchmarks.parts.rows import OURS, Row, rows_of

SECONDS = 0  # bytes need no rounds
SMOLLM2 = ((576, 576), (576, 1536), (1536, 576))
CUT = "SmolLM2-135M, 2 layers, 2048 words"
PROVIDERS = (PEFT_LORA, PEFT_DORA, OURS, FUSED_LORA)


class Setting(NamedTuple):
    """One layer or model, one batch."""

    op: str
    model: str
    tokens: int
    dtype: str
    dropout: float
    r: int = 16

    def __str__(self) -> str:
        return f"{self.op}: {self.shape()}, {self.dtype}, dropout {self.dropout}"

    def shape(self) -> str:
        """Sizes, in words."""
        return f"{self.model}, {self.tokens} tokens, r {self.r}"


def settings(device: str, quick: bool) -> list[Setting]:
    """The most valuable first. Emulated bf16 is slow, and bytes are in proportion to tokens."""
    if quick:
        model, linear = ("model", "toy", 16), ("linear", "48 to 32", 20)
        return [Setting(*model, "bfloat16", 0.05, 4), Setting(*linear, "float32", 0.0, 4)]
    if device == "cuda":
        sizes = [("model", "Llama-3.1-8B", tokens, "bfloat16") for tokens in (2048, 8192)]
        sizes += [("linear", f"{i} to {o}", 8192, "bfloat16") for i, o in layer.LLAMA]
    else:
        sizes = [("model", "SmolLM2-135M", 512, "float32"), ("model", CUT, 64, "bfloat16")]
        sizes += [
            ("linear", f"{i} to {o}", 256, dtype)
            for i, o in SMOLLM2
            for dtype in ("float32", "bfloat16")
        ]
    return [Setting(*size, dropout) for size in sizes for dropout in (0.0, 0.05)]


def measure(setting: Setting, device: str, seconds: float) -> list[Row]:
    """Rows of one setting."""
    samples = (_layer if setting.op == "linear" else _model)(setting, device)
    rows = []
    for metric, figures in samples.items():
        rows += rows_of(
            {name: [figure] for name, figure in figures.items()},
            benchmark="memory",
            op=setting.op,
            shape=setting.shape(),
            dtype=setting.dtype,
            dropout=setting.dropout,
            metric=metric,
            unit="bytes",
            device=device,
            peers=PEERS,
        )
    return rows


def _layer(setting: Setting, device: str) -> dict[str, dict[str, float]]:
    dtype = parse_dtype(setting.dtype)
    in_features, out_features = (int(n) for n in setting.model.split(" to "))
    base = OneLayer(in_features, out_features, dtype, device)
    x, dy = (noise((setting.tokens, n), device, n) for n in (in_features, out_features))
    models = {n: adapted(base, n, setting.r, setting.dropout, targets="linear") for n in EVERYBODY}
    few = gate.layer_run(x[: layer.GATE_TOKENS], dy[: layer.GATE_TOKENS])
    gate.check(base, models, few, setting.r, targets="linear")
    samples: dict[str, dict[str, float]] = {"saved": {}, "step_peak": {}}
    for name, model in models.items():
        # A computed tensor, as inside a model: a leaf would be handed to backward by its owner.
        leaf = x.to(dtype, copy=True).requires_grad_()
        samples["saved"][name] = saved_bytes(model, lambda model=model, leaf=leaf: model(leaf * 1))
        action = layer.step(model, x.to(dtype), dy.to(dtype))
        samples["step_peak"][name] = peak_bytes(lambda a=action: (a.run(), a.after()), device)
    return samples


def _model(setting: Setting, device: str) -> dict[str, dict[str, float]]:
    dtype = parse_dtype(setting.dtype)
    cut = {"num_hidden_layers": 2, "vocab_size": 2048} if setting.model == CUT else {}
    base = train_step.load(setting.model.partition(",")[0], dtype, device, **cut)
    length = min(setting.tokens, 2048 if device == "cuda" else 128)
    ids = train_step.token_ids(base, setting.tokens // length, length).to(device)
    train_step.run_gate(setting, dtype, device, base, ids, PROVIDERS)
    samples: dict[str, dict[str, float]] = {"saved_per_layer": {}, "step_peak": {}}
    for name in PROVIDERS:
        model = adapted(base, name, setting.r, setting.dropout)
        saved = saved_bytes(model, lambda model=model: model(input_ids=ids, labels=ids).loss)
        num_layers = sum("lora_A" in name for name, _ in model.named_parameters())
        samples["saved_per_layer"][name] = saved / num_layers
        samples["step_peak"][name] = peak_bytes(train_step.step(model, ids), device)
    return samples


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of all storages that one forward keeps for backward, but the model's own."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor  # held, or the address could be given out again
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    kept.clear()
    output.sum().backward()
    model.zero_grad()
    return total


def peak_bytes(step: Callable[[], object], device: str) -> int:
    """The most bytes that a step holds at once beyond those held before it."""
    step()  # optimizer state, caches
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak

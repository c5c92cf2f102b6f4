"""Are the fast layers right on this device? Odd shapes, all dtypes, many ranks, against float64.

    python benchmarks/check.py --device cuda

Every case passes the benchmarks' own gate (parts/gate.py). Dropout is checked by what it must be: for
one seed the layer is linear in its input, so the input's gradient tells exactly how the output moves.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python benchmarks/check.py`

import torch
from torch import nn

from benchmarks.parts import gate
from benchmarks.parts.models import OneLayer, noise
from benchmarks.parts.providers import PEFT_LORA, adapted
from benchmarks.parts.rows import OURS

SHAPES = ((1, 63, 1), (63, 100, 7), (100, 1, 63), (300, 1000, 129), (1000, 300, 64), (64, 64, 2048))
RANKS = (1, 7, 16, 64, 128)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def main() -> None:
    """Exits with 1 and the list of what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="two shapes, two ranks, float32")
    args = parser.parse_args()
    cases = itertools.product(SHAPES, RANKS, DTYPES)
    if args.quick:
        cases = itertools.product(SHAPES[1:3], RANKS[1:3], DTYPES[:1])
    wrong = []
    for (in_features, out_features, tokens), r, dtype in cases:
        if r > min(in_features, out_features) and r > 16:
            continue
        try:
            check(in_features, out_features, tokens, r, dtype, args.device)
        except gate.RedGateError as error:
            size = f"{in_features} to {out_features}, {tokens} tokens, r {r}, {dtype}"
            wrong.append(f"{size}: {error}")
    if wrong:
        raise SystemExit("\n".join(wrong))
    print("all right")


def check(
    in_features: int, out_features: int, tokens: int, r: int, dtype: torch.dtype, device: str
) -> None:
    """One case, with a bias.

    Raises:
        RedGateError: It is wrong.
    """
    base = OneLayer(in_features, out_features, dtype, device, bias=True)
    x, dy = noise((tokens, in_features), device, 1), noise((tokens, out_features), device, 2)
    ours = adapted(base, OURS, r, targets="linear")
    gate.check(base, {OURS: ours}, gate.layer_run(x, dy), r, targets="linear")
    if dtype == torch.float32:
        distances = [
            dropout_distance(adapted(base, name, r, 0.3, targets="linear"), x, dy)
            for name in (OURS, PEFT_LORA)
        ]
        # Where PEFT's is exact by luck: one float32 rounding.
        if distances[0] > gate.FACTOR * max(distances[1], torch.finfo(torch.float32).eps):
            raise gate.RedGateError(f"dropout's backward is {distances[0]:.2e} off its forward")


def dropout_distance(model: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> float:
    """How far ``<dx, v>`` is from ``<dy, f(x + v) - f(x)>`` for one seed, relative to their terms."""
    leaf = x.clone().requires_grad_()
    v = noise(tuple(x.shape), str(x.device.type), 3)
    torch.manual_seed(5)
    y = model(leaf)
    y.backward(dy)
    torch.manual_seed(5)
    moved = model(x + v)
    predicted = leaf.grad.double() * v.double()
    found = dy.double() * (moved.double() - y.double()).detach()
    size = found.norm() + predicted.norm()
    return ((found.sum() - predicted.sum()).abs() / size).item()


if __name__ == "__main__":
    main()

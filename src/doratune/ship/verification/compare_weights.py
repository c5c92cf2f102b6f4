"""Merged weights against the adapter they came from, without any model class.

What a correct merge can be off by follows from two numbers: u, the unit roundoff of the merged
weights, and `ARITHMETIC`, the relative error of computing W' in float32.

``weight_error`` computes W' in float64 and asks how much further from it the merged value lies than
the nearest number of the merged precision does. Rounding itself costs nothing then. A value that
was off by a relative e before rounding may land on the neighbouring number, but only where W' is
within e of the middle of the two, so it lies further away by 2 e at most: the limit is
`ARITHMETIC` in every precision. A scale g that was left out shows in those values, a share of about
|g - 1| / 2u, that are rounded elsewhere: in bfloat16 from |g - 1| of some 3e-5 on. Measured on
SmolLM2-135M in bfloat16 after 40 steps of DoRA (g within 0.988 and 1.009): 1.7e-9 in the worst
layer of a correct merge, 1e-4 in the best layer of one without g, against a limit of 9.5e-7.

``norm_error`` needs neither W nor A and B: the rows of W' have the norms m. Each value moves by at
most u in relative terms, so no norm moves by more: ``u + e``. Rounding errors of a row mostly
cancel, so that 0.4 u is what the worst of 155 520 rows there had; they do not where the adapter is
too small to reach the next number of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from doratune.adapter import LayerDelta
from doratune.base import tensor_files
from doratune.errors import StorageError
from doratune.ops import ZERO_NORM
from doratune.progress import track
from doratune.record.schemas import LayerCheck
from doratune.ship.merging.checkpoint import Plan, read_tensor
from doratune.ship.merging.weight import merged_weight
from doratune.ship.verification.roundoff import ROUNDOFF

ARITHMETIC = 16 * 2.0**-24
"""Twice the relative error of W' in float32, which is at most r + 5 roundings where B A is as large
as W, most of them cancelling; measured 1.3 roundings on SmolLM2-135M with r = 16."""


def norm_threshold(dtype: str) -> float:
    """Largest ``norm_error`` of a correct merge."""
    return ROUNDOFF[dtype] + ARITHMETIC


class WeightChecks(NamedTuple):
    """How the tensors of a merged checkpoint compare with what they should be."""

    layers: list[LayerCheck]
    """Every adapted layer."""
    changed: list[str]
    """Other tensors that are not exactly base, saved module or fully fine-tuned model, rounded."""


@torch.no_grad()
def compare_weights(plan: Plan, merged_path: Path, dtype: str) -> WeightChecks:
    """Compares every tensor of a merged checkpoint with what base and adapter say it is.

    Raises:
        StorageError: A tensor is missing, has another shape or precision, or is not finite.
    """
    layers, changed = [], []
    for name, expected, found in _pairs(plan, merged_path, getattr(torch, dtype)):
        if name not in plan.deltas:
            if not torch.equal(_bits(found), _bits(expected.to(found.dtype))):
                changed.append(name)
            continue
        delta = plan.deltas[name]
        error = weight_error(found, expected)
        layers.append(
            LayerCheck(
                layer=plan.layers[name],
                weight_error=error,
                norm_error=norm_error(found, delta),
            )
        )
    return WeightChecks(layers, changed)


def _pairs(
    plan: Plan, merged_path: Path, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor, Tensor]]:
    merged = tensor_files(merged_path)
    if merged.keys() != plan.files.keys():
        name = min(merged.keys() ^ plan.files.keys())
        raise StorageError(
            f"{merged_path} {'has the tensor' if name in merged else 'lacks the tensor'} {name}, "
            f"{'which' if name in merged else 'and'} the model it is made of "
            f"{'does not' if name in merged else 'has it'}. Merge again."
        )
    for name in track(sorted(merged), "Comparing weights", total=len(merged)):
        if name in plan.deltas:
            expected = merged_weight(plan.weight(name), plan.deltas[name], torch.float64)
        else:
            expected = plan.saved[name] if name in plan.saved else plan.unchanged(name)
        found = read_tensor(merged, name)
        wanted = dtype if expected.is_floating_point() else expected.dtype
        if found.shape != expected.shape or found.dtype != wanted:
            raise StorageError(
                f"{merged_path} holds {name} as {found.dtype} {tuple(found.shape)}; expected "
                f"{wanted} {tuple(expected.shape)}. Merge again."
            )
        if name in plan.deltas and not found.isfinite().all():
            raise StorageError(
                f"{merged_path} holds {name} with values that are not finite. Merge again."
            )
        yield name, expected, found


def _bits(tensor: Tensor) -> Tensor:
    """Equality of bits, so that NaN equals NaN."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def weight_error(found: Tensor, expected: Tensor) -> float:
    """Norm of how much further ``found`` is from W' than the nearest number, over ``‖W'‖``.

    Args:
        found: Merged weight.
        expected: W', same shape, float64.
    """
    nearest = (expected.to(found.dtype).double() - expected).abs()
    excess = ((found.double() - expected).abs() - nearest).clamp(min=0).norm().item()
    return excess / (expected.norm().item() or 1.0)


def norm_error(found: Tensor, delta: LayerDelta) -> float | None:
    """Largest ``|‖W_merged‖ / |m| - 1|`` over output features; None for LoRA.

    Left out are rows with m near zero (pruned ones), and rows with values so small that ``found``
    holds them with fewer digits (float16 below 6e-5).
    """
    if delta.magnitude is None:
        return None
    inputs, found = (0, found) if delta.fan_in_fan_out else (1, found.flatten(1))
    m_O = delta.magnitude.double().abs()
    smallest = torch.finfo(found.dtype).tiny * math.sqrt(found.shape[inputs])
    norms_O = torch.linalg.vector_norm(found.double(), dim=inputs)
    errors_O = (norms_O / m_O - 1).abs()[m_O > max(smallest, ZERO_NORM * m_O.max().item())]
    return errors_O.max().item() if len(errors_O) else 0.0

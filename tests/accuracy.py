"""The one tolerance rule of the numerics tests."""

from __future__ import annotations

import torch
from torch import Tensor

FACTOR = 4
"""A fast path may be so many times as far from the float64 definition as plain PyTorch in the same
precision. 2 rejects correct code at 300 x 1000, r = 64, bf16; a wrong constant in the cross term is 75
times too far."""


def assert_as_accurate(
    name: str,
    candidate: Tensor,
    plain: Tensor,
    exact: Tensor,
    precision: torch.dtype,
    allowance: float = 0.0,
) -> None:
    """Fails where ``candidate`` is more than FACTOR times as far from ``exact`` as ``plain`` is.

    On a single number plain code may be exact by luck: there, two roundings in ``precision`` pass.
    ``allowance`` is a relative error that the machine adds, not the code.
    """
    assert candidate.shape == exact.shape, f"{name}: {candidate.shape} is not {exact.shape}"
    assert candidate.isfinite().all(), f"{name}: not finite"
    allowed = FACTOR * _error(plain, exact) + allowance
    if exact.numel() == 1:
        allowed = max(allowed, 2 * torch.finfo(precision).eps)
    found = _error(candidate, exact)
    assert found <= allowed, f"{name}: relative error {found:.3g}, allowed {allowed:.3g}"


def _error(value: Tensor, exact: Tensor) -> float:
    scale = exact.double().norm()
    return ((value.double() - exact.double()).norm() / (scale if scale > 0 else 1)).item()

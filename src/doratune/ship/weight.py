"""One adapted weight, formed: the arithmetic of merging (DoRA, equation 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from doratune.adapter import LayerDelta
from doratune.ops import ZERO_NORM


def merged_weight(weight: Tensor, delta: LayerDelta, dtype: torch.dtype = torch.float32) -> Tensor:
    """``W' = (m / n) (W + scaling B A)`` with n the norms per output feature; for LoRA g = 1.

    Args:
        weight: Base weight W, (out_features, in_features), or transposed with ``fan_in_fan_out``.
        delta: What the adapter holds for the layer; its shapes fit.
        dtype: Precision of the whole computation and of the result.

    Returns:
        A new tensor in the layout of ``weight``.
    """
    V_OI = _adapted(weight, delta, dtype)
    if delta.magnitude is not None:
        V_OI *= _scale(V_OI, delta.magnitude)[:, None]
    return V_OI.T if delta.fan_in_fan_out else V_OI


def mag_norm_scale(weight: Tensor, delta: LayerDelta) -> Tensor:
    """``g = m / n``, what the layer's output without its bias is multiplied by.

    Args:
        weight: Base weight, as in `merged_weight`.
        delta: What the adapter holds for the layer.

    Returns:
        (out_features,), float32; 1 where n is zero, and for LoRA.
    """
    if delta.magnitude is None:
        return torch.ones(len(delta.B))
    return _scale(_adapted(weight, delta, torch.float32), delta.magnitude)


def _adapted(weight: Tensor, delta: LayerDelta, dtype: torch.dtype) -> Tensor:
    W_OI = weight.T if delta.fan_in_fan_out else weight
    return torch.addmm(W_OI.to(dtype), delta.B.to(dtype), delta.A.to(dtype), alpha=delta.scaling)


def _scale(V_OI: Tensor, magnitude: Tensor) -> Tensor:
    n_O = torch.linalg.vector_norm(V_OI, dim=1)
    counts_O = n_O > ZERO_NORM * n_O.amax()
    return torch.where(counts_O, magnitude.to(V_OI.dtype) / n_O, 1)

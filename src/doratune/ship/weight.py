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
    W_OI = weight.T if delta.fan_in_fan_out else weight
    V_OI = torch.addmm(W_OI.to(dtype), delta.B.to(dtype), delta.A.to(dtype), alpha=delta.scaling)
    if delta.magnitude is not None:
        n_O = torch.linalg.vector_norm(V_OI, dim=1)
        counts_O = n_O > ZERO_NORM * n_O.amax()
        V_OI *= torch.where(counts_O, delta.magnitude.to(dtype) / n_O, 1)[:, None]
    return V_OI.T if delta.fan_in_fan_out else V_OI

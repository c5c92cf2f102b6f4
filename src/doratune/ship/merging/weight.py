"""One adapted weight, formed: the arithmetic of merging (DoRA, equation 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from doratune.adapter import LayerDelta
from doratune.ops import ZERO_NORM


def merged_weight(weight: Tensor, delta: LayerDelta, dtype: torch.dtype = torch.float32) -> Tensor:
    """``W' = (m / n) (W + scaling B A)`` with n the norms per output feature; for LoRA g = 1.

    Args:
        weight: Base weight W, of the shape `LayerDelta.weight_shape`.
        delta: What the adapter holds for the layer.
        dtype: Precision of the whole computation and of the result.

    Returns:
        A new tensor in the layout of ``weight``.
    """
    if delta.num_experts > 1:
        left, right = stored_factors(delta)
        return torch.baddbmm(weight.to(dtype), left.to(dtype), right.to(dtype), alpha=delta.scaling)
    V_OI = _adapted(weight, delta, dtype)
    if delta.magnitude is not None:
        V_OI *= mag_norm_scale_of(torch.linalg.vector_norm(V_OI, dim=1), delta.magnitude)[:, None]
    return V_OI.T if delta.fan_in_fan_out else V_OI.reshape(weight.shape)


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
    V_OI = _adapted(weight, delta, torch.float32)
    return mag_norm_scale_of(torch.linalg.vector_norm(V_OI, dim=1), delta.magnitude)


def mag_norm_scale_of(n_O: Tensor, magnitude: Tensor) -> Tensor:
    """G of a layer whose norms are known, (out_features,); 1 where n counts as zero."""
    counts_O = n_O > ZERO_NORM * n_O.amax()
    return torch.where(counts_O, magnitude.to(n_O.dtype) / n_O, 1)


def stored_factors(delta: LayerDelta) -> tuple[Tensor, Tensor]:
    """The factors of ``B A`` in the layout in which the weight is stored.

    Returns:
        (experts, rows, r) and (experts, r, columns), where the product of each pair is what is added,
        before scaling, to one matrix of the stored weight; one expert for all but fused experts.
    """
    E = delta.num_experts
    B_EOR = delta.B.reshape(len(delta.B), -1, E).permute(2, 0, 1)  # PEFT: experts vary fastest
    A_ERI = delta.A.reshape(E, -1, delta.A.shape[1])
    return (A_ERI.mT, B_EOR.mT) if delta.fan_in_fan_out else (B_EOR, A_ERI)


def as_matrix(weight: Tensor, delta: LayerDelta) -> Tensor:
    """A weight as it is stored as (out_features, inputs of one of them), the shape of ``B A``."""
    return weight.T if delta.fan_in_fan_out else weight.flatten(1)


def _adapted(weight: Tensor, delta: LayerDelta, dtype: torch.dtype) -> Tensor:
    W_OI = as_matrix(weight, delta)
    return torch.addmm(W_OI.to(dtype), delta.B.to(dtype), delta.A.to(dtype), alpha=delta.scaling)

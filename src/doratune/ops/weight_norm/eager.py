"""The factored norm: nothing of shape (O, I) is formed, and the base weight is never read whole.

O out_features, I in_features, R rank, K some rows. Derivation and limits: README.md beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CANCELLED = 1 / 16
"""A row whose squared norm is below this share of ``‖W‖² + ‖sBA‖²`` is recomputed densely.

Cancellation multiplies the relative error of the factored form by at most 1 / CANCELLED."""


class BaseWeight(NamedTuple):
    """What the norm needs to know of a frozen weight W (O, I)."""

    norm_squared_O: Tensor
    """``‖W‖²`` of every output feature, (O,), float32."""
    project: Callable[[Tensor], Tensor]
    """(R, I) to ``A W^T``, (R, O). The base layer's own forward does this for any kind of layer."""
    rows: Callable[[Tensor], Tensor]
    """Indices (K,) to those rows of W, (K, I)."""


@torch.no_grad()
def weight_norm(base: BaseWeight, A_RI: Tensor, B_OR: Tensor, scaling: float) -> Tensor:
    """Norm of every output feature of ``W + scaling B A``, a constant for autograd (DoRA, section 4.3).

    Args:
        base: The frozen weight.
        A_RI: ``lora_A``, (R, I), any float dtype.
        B_OR: ``lora_B``, (O, R), any float dtype.
        scaling: ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` with rsLoRA.

    Returns:
        (O,), float32 whatever the inputs are. With ``B = 0`` it is ``sqrt(norm_squared_O)`` exactly.
    """
    with torch.autocast(A_RI.device.type, enabled=False):
        return _norm_and_products(base, A_RI.float(), scaling * B_OR.float())[0]


@torch.no_grad()
def direction_change(base: BaseWeight, A_RI: Tensor, B_OR: Tensor, scaling: float) -> Tensor:
    """``1 - cos(V, W)`` of every output feature, V the adapted weight (DoRA, section 3.2).

    Args:
        base: The frozen weight.
        A_RI: ``lora_A``, (R, I), any float dtype.
        B_OR: ``lora_B``, (O, R), any float dtype.
        scaling: Factor of the update.

    Returns:
        (O,), float32, in [0, 2]; 0 where either weight is zero.
    """
    with torch.autocast(A_RI.device.type, enabled=False):
        n_O, cross_O, update_O = _norm_and_products(base, A_RI.float(), scaling * B_OR.float())
        w2_O = base.norm_squared_O
        wn_O = w2_O.sqrt() * n_O
        dot_O = w2_O + cross_O
        # 1 - dot / wn loses all digits near 0; multiplied by (1 + dot / wn) it does not.
        sine2_O = (w2_O * update_O - cross_O.square()).clamp_min(0)
        change_O = torch.where(dot_O > 0, sine2_O / (wn_O * (wn_O + dot_O)), 1 - dot_O / wn_O)
        return torch.where(wn_O > 0, change_O, 0.0)


def _norm_and_products(
    base: BaseWeight, A_RI: Tensor, sB_OR: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``‖W + sBA‖``, ``<W, sBA>`` and ``‖sBA‖²`` of every output feature, (O,) float32 each."""
    cross_O = (base.project(A_RI).float().T * sB_OR).sum(1)
    update_O = ((sB_OR @ (A_RI @ A_RI.T)) * sB_OR).sum(1)
    parts_O = base.norm_squared_O + update_O
    squared_O = parts_O + 2 * cross_O
    cancelled_O = squared_O < CANCELLED * parts_O
    if cancelled_O.any():
        index_K = cancelled_O.nonzero().squeeze(1)
        V_KI = base.rows(index_K).float() + sB_OR[index_K] @ A_RI
        squared_O[index_K] = V_KI.square().sum(1)
    return squared_O.sqrt(), cross_O, update_O

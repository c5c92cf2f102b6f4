"""The factored norm: nothing of shape (O, I) is formed, and the base weight is never read whole.

O out_features, I in_features, R rank, K some rows. Derivation and limits: README.md beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from doratune.ops import launch
from doratune.ops.precision import full_precision

CANCELLED = 1 / 4
"""A row whose squared norm is below this share of ``‖W‖²`` is recomputed densely. Above it, cancellation
multiplies the relative error of the factored form by at most 5 / CANCELLED."""

ZERO_NORM = 1e-6
"""Share of the base's largest row norm up to which a row of the adapted weight counts as zero."""


@dataclass(frozen=True, eq=False)
class BaseWeight:
    """What the norm needs to know of a frozen weight W (O, I)."""

    norm_squared_O: Tensor
    """``‖W‖²`` of every output feature, (O,), float32."""
    project: Callable[[Tensor], Tensor]
    """A (R, I) to ``W A^T``, (O, R), in any float dtype."""
    rows: Callable[[Tensor], Tensor]
    """Indices (K,) to those rows of W, (K, I)."""
    zero_squared: Tensor = field(init=False)
    """Squared norm up to which a row of the adapted weight counts as zero, float32."""
    rare_squared_O: Tensor = field(init=False)
    """Squared norm up to which a row is recomputed densely, (O,), float32."""

    def __post_init__(self) -> None:
        w2_O = self.norm_squared_O
        zero = ZERO_NORM**2 * w2_O.amax() if w2_O.numel() else w2_O.new_zeros(())
        object.__setattr__(self, "zero_squared", zero)
        object.__setattr__(self, "rare_squared_O", torch.maximum(CANCELLED * w2_O, zero))


@torch.no_grad()
def weight_norm(
    base: BaseWeight, A_RI: Tensor, B_OR: Tensor, scaling: float, W_OI: Tensor | None = None
) -> Tensor:
    """Norm of every output feature of ``W + scaling B A``, a constant for autograd (DoRA, section 4.3).

    Args:
        base: The frozen weight.
        A_RI: ``lora_A``, (R, I), any float dtype.
        B_OR: ``lora_B``, (O, R), any float dtype.
        scaling: ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` with rsLoRA.
        W_OI: The base weight itself, where it can be had as a tensor: a GPU then finishes in one kernel
            without asking the host.

    Returns:
        (O,), float32 whatever the inputs are. With ``B = 0`` it is ``sqrt(norm_squared_O)`` exactly.
        Rows that count as zero have exactly 0.
    """
    if W_OI is not None and torch.compiler.is_compiling():
        from doratune.ops import registered

        return registered.weight_norm(base.norm_squared_O, W_OI, A_RI, B_OR, scaling)
    with full_precision(A_RI.device):
        if W_OI is not None and launch.uses_triton(W_OI):
            from doratune.ops.weight_norm.triton import finish_norm

            gram_RR = A_RI.float() @ A_RI.float().T
            factors = (base.project(A_RI), gram_RR, B_OR, scaling, W_OI, A_RI)
            return finish_norm(base.norm_squared_O, *factors, base.zero_squared)
        A_RI, B_OR = A_RI.float(), B_OR.float()
        product_OR = base.project(A_RI).float()
        # s b · (2 W A^T + s b A A^T), for the cross term and the update's own norm at once
        product_OR = torch.addmm(product_OR, B_OR, A_RI @ A_RI.T, beta=2, alpha=scaling)
        squared_O = torch.add(base.norm_squared_O, (product_OR * B_OR).sum(1), alpha=scaling)
        return _repair(squared_O, base, A_RI, B_OR, scaling).sqrt_()


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
    with full_precision(A_RI.device):
        A_RI, sB_OR = A_RI.float(), scaling * B_OR.float()
        cross_O = (base.project(A_RI).float() * sB_OR).sum(1)
        update_O = ((sB_OR @ (A_RI @ A_RI.T)) * sB_OR).sum(1)
        w2_O = base.norm_squared_O
        n_O = _repair(w2_O + update_O + 2 * cross_O, base, A_RI, sB_OR, 1.0).sqrt_()
        wn_O = w2_O.sqrt() * n_O
        dot_O = w2_O + cross_O
        # 1 - dot / wn loses all digits near 0; multiplied by (1 + dot / wn) it does not.
        sine2_O = (w2_O * update_O - cross_O.square()).clamp_min(0)
        change_O = torch.where(dot_O > 0, sine2_O / (wn_O * (wn_O + dot_O)), 1 - dot_O / wn_O)
        return torch.where(wn_O > 0, change_O, 0.0)


def _repair(
    squared_O: Tensor, base: BaseWeight, A_RI: Tensor, B_OR: Tensor, scaling: float
) -> Tensor:
    """Recomputes, in place, the rows that cancel, and sets those that count as zero to 0."""
    rare_O = squared_O <= base.rare_squared_O
    if rare_O.any():
        index_K = rare_O.nonzero().squeeze(1)
        V_KI = base.rows(index_K).float() + scaling * (B_OR[index_K] @ A_RI)
        squared_K = V_KI.square().sum(1)
        squared_O[index_K] = squared_K.masked_fill_(squared_K <= base.zero_squared, 0)
    return squared_O

"""Plain LoRA that comes as near to a DoRA adapter as its rank allows, for engines without DoRA.

The change of a weight is ``ΔW = W' - W = (g - 1) W + g s B A``. The second part has the adapter's
rank; the first has that of W, so no LoRA of limited rank is the same model. The best one of rank R
in the Frobenius norm is the truncated singular value decomposition of ΔW (Eckart and Young), and
what is left of it is measured for every layer. A convolution's kernels, one row for each output
channel, and the transposed table of an embedding are matrices here, as they are for DoRA's norms.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from doratune.adapter import LayerDelta, read_adapter
from doratune.adapter.files import PREFIX
from doratune.progress import track
from doratune.record.export import Approximation, LayerApproximation, RankError
from doratune.ship.merging.checkpoint import Plan
from doratune.ship.merging.weight import as_matrix, merged_weight
from doratune.ship.merging.write import check_fit

_FULL_SVD = 1024
"""Largest smaller side of a matrix that is decomposed whole; beyond it a randomised method finds the
leading part (Halko, Martinsson and Tropp, 2011, algorithm 4.4)."""
_OVERSAMPLING = 16
_ITERATIONS = 4


class _Layer(NamedTuple):
    """One layer's factors, and the squares that the figures of all layers together are made of."""

    A: Tensor
    B: Tensor
    delta: float
    """``‖ΔW‖²``."""
    weight: float
    """``‖W'‖²``."""
    plain: float
    """``‖s B A - ΔW‖²``: what is lost by leaving the magnitude out."""
    left: list[float]
    """``‖ΔW_R - ΔW‖²`` for each of the ranks asked."""


@torch.no_grad()
def write_lora(plan: Plan, adapter_path: Path, file: Path, rank: int) -> Approximation:
    """Writes A and B of every layer into one safetensors file, one weight in memory at a time.

    ``B A`` is ΔW's part of rank R with scaling 1, so ``lora_alpha`` must equal the rank. Layers
    narrower than R are padded with zeros. Tensors that the adapter holds whole go along.

    Args:
        plan: Base tensors and the adapter's layers; a DoRA adapter.
        adapter_path: The adapter, for messages.
        file: File to write.
        rank: R.

    Returns:
        What the approximation is off by.

    Raises:
        AdapterError: The adapter does not fit the base.
        ModelError: The base is quantised.
    """
    ranks = sorted({max(1, rank // 4), max(1, rank // 2), rank, 2 * rank, 4 * rank})
    # By PEFT's names: the plan has those of the checkpoint, which may leave out the model's prefix.
    wholes = read_adapter(adapter_path).saved_modules
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in wholes.items()}
    layers: dict[str, _Layer] = {}
    for name, delta in track(plan.deltas.items(), "Decomposing", total=len(plan.deltas)):
        layer, base = plan.layers[name], plan.weight(name)
        check_fit(layer, base, delta, adapter_path)
        W_OI = as_matrix(base, delta).float()
        target_OI = as_matrix(merged_weight(base, delta), delta)
        plain_OI = delta.scaling * (delta.B.float() @ delta.A.float())
        layers[layer] = _decompose(W_OI, target_OI, plain_OI, rank, ranks)
        tensors |= _as_peft(f"{PREFIX}{layer}", delta, layers[layer])
    metadata = {"format": "pt", "approximation": f"DoRA as LoRA of rank {rank}"}
    save_file(tensors, file, metadata=metadata)
    own_rank = max((len(delta.A) for delta in plan.deltas.values()), default=0)
    return _figures(layers, rank, ranks, own_rank)


def _as_peft(name: str, delta: LayerDelta, found: _Layer) -> dict[str, Tensor]:
    """The factors by PEFT's names and in its shapes."""
    if delta.is_embedding:
        return {f"{name}.lora_embedding_A": found.A, f"{name}.lora_embedding_B": found.B}
    return {
        f"{name}.lora_A.weight": found.A.unflatten(1, (-1, *delta.kernel)),
        f"{name}.lora_B.weight": found.B.reshape(*found.B.shape, *(1 for _ in delta.kernel)),
    }


def _decompose(
    W_OI: Tensor, target_OI: Tensor, plain_OI: Tensor, rank: int, ranks: list[int]
) -> _Layer:
    delta_OI = target_OI - W_OI
    U_OK, s_K, V_IK = leading_svd(delta_OI, max(ranks))
    A, B = factors(U_OK, s_K, V_IK, rank)
    total = _square(delta_OI)
    squares_K = s_K.double().square()
    # The tail of the values that were found, and what is beyond them.
    unseen = 0.0 if len(s_K) == min(delta_OI.shape) else max(0.0, total - squares_K.sum().item())
    return _Layer(
        A=A,
        B=B,
        delta=total,
        weight=_square(target_OI),
        plain=_square(plain_OI - delta_OI),
        # At the rank itself by the factors as they are written, for others by the singular values.
        left=[
            _square(B @ A - delta_OI) if r == rank else squares_K[r:].sum().item() + unseen
            for r in ranks
        ],
    )


def leading_svd(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` largest singular values and vectors, or all where there are fewer.

    Returns:
        U (O, K), s (K,) in falling order, V (I, K), with ``matrix`` near ``U diag(s) V^T``.
    """
    smaller = min(matrix.shape)
    if smaller <= max(_FULL_SVD, 2 * count):
        U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
        return U[:, :count], s[:count], Vh[:count].T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same file every time
        U, s, V = torch.svd_lowrank(matrix, q=count + _OVERSAMPLING, niter=_ITERATIONS)
    return U[:, :count], s[:count], V[:, :count]


def factors(U_OK: Tensor, s_K: Tensor, V_IK: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (rank, I) and B (O, rank) with ``B A`` the part of that rank, the sizes shared evenly."""
    K = min(rank, len(s_K))
    root_K = s_K[:K].sqrt()
    A = V_IK.new_zeros(rank, len(V_IK))
    B = U_OK.new_zeros(len(U_OK), rank)
    A[:K] = (V_IK[:, :K] * root_K).T
    B[:, :K] = U_OK[:, :K] * root_K
    return A, B


def _square(matrix: Tensor) -> float:
    return matrix.double().square().sum().item()


def _ratio(part: float, whole: float) -> float:
    return math.sqrt(part / whole) if whole else 0.0


def _figures(
    layers: dict[str, _Layer], rank: int, ranks: list[int], own_rank: int
) -> Approximation:
    delta = sum(layer.delta for layer in layers.values())
    weight = sum(layer.weight for layer in layers.values())
    left = [sum(layer.left[i] for layer in layers.values()) for i in range(len(ranks))]
    errors = [
        RankError(rank=r, delta_error=_ratio(part, delta), weight_error=_ratio(part, weight))
        for r, part in zip(ranks, left, strict=True)
    ]
    at = ranks.index(rank)
    plain = sum(layer.plain for layer in layers.values())
    return Approximation(
        rank=rank,
        delta_error=errors[at].delta_error,
        weight_error=errors[at].weight_error,
        without_magnitude=RankError(
            rank=own_rank, delta_error=_ratio(plain, delta), weight_error=_ratio(plain, weight)
        ),
        ranks=errors,
        layers=[
            LayerApproximation(
                layer=name,
                delta_error=_ratio(layer.left[at], layer.delta),
                weight_error=_ratio(layer.left[at], layer.weight),
            )
            for name, layer in layers.items()
        ],
    )

"""Whether magnitudes were trained on a base: they start as the norms of its weights and stay near.

Three questions, all about logarithms, in which a step of training is alike for large and small norms.

*Another base.* ``distance`` is the root mean square of ``log m - log ‖W‖`` over all output features of
all layers, over that of ``log m - median log m`` within each layer. It is 0 for an untrained adapter, 1
where the norms say no more about the magnitudes than one number a layer would, and 1.4 for norms of the
same spread that have nothing to do with them. On SmolLM2-135M, whose norms spread by 0.20 (root mean
square of the logarithm within layers), magnitudes that moved at random by 2 % have 0.10, by 10 % 0.44
and by 20 % 0.70. The same magnitudes beside the weights of the next layers have 1.38 to 1.61, beside
its rows in another order 1.38, and beside random weights of the same size 1.03. Not told apart are
bases that are nearly the same: weights moved by a tenth of their size have 0.11, rounded to 4 bits 0.10.

*Another layer.* The same of one layer, without a common factor. Where magnitudes have moved, however
far, this stays below 1, as what moved them knows nothing of the norms: on SmolLM2-135M at most 0.49 in
210 layers at 2 %, 1.02 at 50 %. Beside the weights of another layer the median is 1.23 to 1.28.

*A damaged value.* A magnitude below a tenth or above ten times its norm is none that training leaves;
for rows whose norm is below a tenth of the layer's median the distance is measured by that. So a zero,
a turned sign or exponent is found, and a pruned row may have any small magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from doratune.adapter.files import AdapterWeights, LayerDelta

OTHER_BASE = 0.7
"""Magnitudes further from the norms than this part of their own spread are of another base: half way
between what any training leaves and what was measured of other bases."""

OTHER_LAYER = 1.15
"""The same for one layer without a common factor; more than half of swapped layers are beyond it."""

_ENOUGH = 32
"""Output features below which one layer says too little."""

_FACTOR = 10.0
_ALIKE = 1e-3


class LayerFit(NamedTuple):
    """The magnitudes of one layer beside the norms of its base weight."""

    layer: str
    ratio_O: Tensor
    """``m / ‖W‖``, (out_features,), float32; 1 where both are zero."""
    far_O: Tensor
    """``|log m - log ‖W‖|``, without the odd features and those whose norm is near zero."""
    spread_O: Tensor
    """``|log m - median log m|``, of the same."""
    apart: float | None
    """Distance of this layer alone, without a common factor; None where it says nothing."""
    odd: list[int]
    """Output features whose magnitude no training from this norm leaves."""


def layer_fit(layer: str, magnitude: Tensor, norm: Tensor) -> LayerFit:
    """Compares one layer.

    Args:
        layer: Its name.
        magnitude: (out_features,).
        norm: Of the base weight, (out_features,).
    """
    m_O, n_O = magnitude.float(), norm.float()
    above = n_O[n_O > 0]
    small = (above.median() if len(above) else n_O.new_zeros(())) / _FACTOR
    ordinary = n_O > small
    fits = torch.where(
        ordinary,
        (m_O >= n_O / _FACTOR) & (m_O <= n_O * _FACTOR),
        m_O.abs() <= small * _FACTOR,
    )
    compared = ordinary & fits
    log_m, log_n = m_O[compared].log(), n_O[compared].log()
    center = log_m.median() if len(log_m) else log_m
    moved_O, spread_O = log_m - log_n, log_m - center
    apart = None
    if len(log_m) >= _ENOUGH and spread_O.any():
        apart = ((moved_O - moved_O.median()).norm() / spread_O.norm()).item()
    return LayerFit(
        layer,
        torch.where(m_O == n_O, 1.0, m_O / n_O),
        moved_O.abs(),
        spread_O.abs(),
        apart,
        (~fits).nonzero().flatten().tolist(),
    )


def distance(fits: Iterable[LayerFit]) -> float | None:
    """How far magnitudes are from norms, by their own spread; None where there is none to compare."""
    fits = list(fits)
    if not fits:
        return None
    far_O = torch.cat([fit.far_O for fit in fits])
    if not len(far_O):
        return None
    far = far_O.square().mean().sqrt().item()
    spread = torch.cat([fit.spread_O for fit in fits]).square().mean().sqrt().item()
    if spread == 0:  # magnitudes that are all alike, on norms that are so too or that are not
        return None if far < _ALIKE else float("inf")
    return far / spread


def fit_problems(fits: Iterable[LayerFit], base: str) -> Iterator[str]:
    """For what an adapter is refused on this base.

    Args:
        fits: All layers that could be compared.
        base: What to call the base.
    """
    fits = list(fits)
    found = distance(fits)
    if found is not None and found > OTHER_BASE:
        yield (
            f"its magnitudes do not belong to the weights of {base}: their distance from the norms "
            f"is {found:.2f} of their own spread; at most {OTHER_BASE} was expected. It was trained "
            "on another base, or on one that was quantised or changed much. Give that base; to use "
            "this one nevertheless, load with any_base=True or attach with --force."
        )
    for fit in fits:
        if fit.apart is not None and fit.apart > OTHER_LAYER:
            yield (
                f"layer {fit.layer}: its magnitudes are not in the order of the norms of this layer in "
                f"{base}: their distance, without a common factor, is {fit.apart:.2f} of their own "
                f"spread, where training leaves less than 1; at most {OTHER_LAYER} was expected. They "
                "are those of another layer or of another base. Take the original file."
            )
        if fit.odd:
            row = fit.odd[0]
            yield (
                f"layer {fit.layer}: {len(fit.odd)} of {len(fit.ratio_O)} magnitudes are far from the "
                f"norms of their weights in {base}; that of output feature {row} is "
                f"{fit.ratio_O[row].item():.4g} times its norm, where training leaves about 1. The "
                "file is damaged, training diverged, or it was trained on another base."
            )


def fit_to_folder(weights: AdapterWeights, base_path: Path) -> Iterator[LayerFit]:
    """Compares an adapter with a checkpoint on disk, one tensor in memory at a time.

    LoRA layers, and layers whose weight the checkpoint does not hold or holds quantised, are left out.
    """
    from doratune.base.tensors import tensor_files  # more than the core packages

    files = tensor_files(base_path)
    for layer, delta in weights.layers.items():
        name = find_weight(layer, files)
        if name is None or delta.magnitude is None:
            continue
        with safe_open(files[name], framework="pt") as tensors:
            weight = tensors.get_tensor(name)
        if weight.is_floating_point() and weight.itemsize > 1 and fits_shape(delta, weight.shape):
            W_OI = weight.T if delta.fan_in_fan_out else weight.flatten(1)
            yield layer_fit(layer, delta.magnitude, row_norms(W_OI))


def fit_to_model(
    weights: AdapterWeights, norm_of: Callable[[str], Tensor | None]
) -> Iterator[LayerFit]:
    """Compares an adapter with a model in memory.

    Args:
        weights: The adapter.
        norm_of: The norms of a layer's base weight, or None if they cannot be had.
    """
    for layer, delta in weights.layers.items():
        norm = None if delta.magnitude is None else norm_of(layer)
        if norm is not None and delta.magnitude is not None:
            yield layer_fit(layer, delta.magnitude, norm.cpu())


def row_norms(weight: Tensor) -> Tensor:
    """The norm of every row, float32, without a float32 copy of the whole matrix."""
    rows = max(1, 2**22 // max(1, weight.shape[1]))
    parts = [torch.linalg.vector_norm(part.float(), dim=1) for part in weight.split(rows)]
    return torch.cat(parts) if parts else weight.new_zeros(0, dtype=torch.float32)


def find_weight(layer: str, names: Iterable[str]) -> str | None:
    """A checkpoint's name for the weight of a layer: GPT-2's leave out the model's own prefix."""
    wanted = f"{layer}.weight"
    return next((name for name in (wanted, wanted.partition(".")[2]) if name in names), None)


def fits_shape(delta: LayerDelta, shape: Iterable[int]) -> bool:
    """Whether a stored weight of this shape is one the layer's factors can be added to."""
    return tuple(shape) == delta.weight_shape

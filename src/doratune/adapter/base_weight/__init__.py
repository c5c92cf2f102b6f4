"""The frozen weight of a base layer, as the norm wants to see it; a file for each way of storing it."""

from __future__ import annotations

from functools import partial
from types import ModuleType

from torch import nn

from doratune.adapter.base_weight import bnb_4bit, bnb_8bit, dense, hqq, torchao
from doratune.ops import BaseWeight

__all__ = ["base_weight", "forbid_repacking", "is_dense", "why_no_base_weight"]

forbid_repacking = bnb_4bit.forbid_repacking
is_dense = dense.fits

_STORED = (dense, bnb_4bit, bnb_8bit, torchao, hqq)


def base_weight(layer: nn.Module) -> BaseWeight:
    """The weight of a layer for which `why_no_base_weight` has no reason; takes its norm, one read.

    ``norm_squared_O`` is that of exactly the weight which the layer's forward multiplies with: for a
    quantised layer, the dequantised one.
    """
    stored = _stored(layer)
    assert stored is not None, f"{type(layer).__name__} has no readable weight"
    # Partials, not closures: in a deepcopy of the model they refer to the copied layer.
    project, rows = partial(stored.project, layer), partial(stored.rows, layer)
    return BaseWeight(stored.norm_squared(layer), project, rows)


def why_no_base_weight(layer: nn.Module) -> str | None:
    """Why the weight of a layer cannot be read; None when it can."""
    weight = getattr(layer, "weight", None)
    if weight is not None and weight.is_meta:
        return "the weight is offloaded"
    if _stored(layer) is None:
        dtype = f" with weights of {weight.dtype}" if weight is not None else ""
        return f"{type(layer).__name__}{dtype} is not a kind of layer that is known"
    return None


def _stored(layer: nn.Module) -> ModuleType | None:
    return next((stored for stored in _STORED if stored.fits(layer)), None)

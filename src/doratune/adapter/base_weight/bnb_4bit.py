"""bitsandbytes' 4-bit weights (NF4, FP4, nested or not)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from doratune.adapter.base_weight import chunks
from doratune.errors import AdapterError


def fits(layer: Any) -> bool:
    """Whether the layer is bitsandbytes' ``Linear4bit`` with a quantised weight, not sharded."""
    return _is_linear_4bit(layer) and getattr(layer.weight, "quant_state", None) is not None


@torch.no_grad()
def norm_squared(layer: Any) -> Tensor:
    """``‖W‖²`` of every output feature, (O,), float32. Dequantises W once, as a forward does."""
    return chunks.norm_squared(_dequantized(layer))


@torch.no_grad()
def project(layer: Any, A_RI: Tensor) -> Tensor:
    """``W A^T``, (O, R), by the product of the layer's own forward, without its bias."""
    from bitsandbytes import matmul_4bit

    A_RI = A_RI.to(_dtype(layer, A_RI.dtype))
    product_RO: Tensor = matmul_4bit(A_RI, layer.weight, quant_state=layer.weight.quant_state)
    return product_RO.T


@torch.no_grad()
def rows(layer: Any, index_K: Tensor) -> Tensor:
    """The rows of W with these numbers, (K, I)."""
    return _dequantized(layer)[index_K]


def forbid_repacking(model: nn.Module) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights for CPU inference.

    On CPUs with AVX512-BF16, ``Linear4bit.forward`` repacks the weight in place at its first call in
    evaluation mode (bitsandbytes 0.50.2). From then on dequantising it gives garbage, to PEFT's DoRA
    too, and no gradient flows through it: a training that evaluates first learns nothing.

    Raises:
        AdapterError: A weight has been repacked already.
    """
    for name, layer in model.named_modules():
        if not _is_linear_4bit(layer):
            continue
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise AdapterError(
                f"{name}: bitsandbytes has repacked this 4-bit weight for inference, which it does on "
                "this CPU at the first forward in evaluation mode. It can no longer be trained, and a "
                "DoRA magnitude made from it is wrong. Load the base model again, add the adapter, and "
                "call enable_fast_dora before the first forward."
            )
        layer.support_avx512bf16_for_cpu = False


def _is_linear_4bit(layer: nn.Module) -> bool:
    return any(
        kind.__name__ == "Linear4bit" and kind.__module__.startswith("bitsandbytes.")
        for kind in type(layer).__mro__
    )


def _dtype(layer: Any, otherwise: torch.dtype) -> torch.dtype:
    """The dtype in which the layer's forward multiplies, and therefore dequantises."""
    return layer.compute_dtype or otherwise


def _dequantized(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(layer.weight.quant_state)
    state.dtype = _dtype(layer, state.dtype)
    W_OI: Tensor = dequantize_4bit(layer.weight.detach(), state)
    return W_OI

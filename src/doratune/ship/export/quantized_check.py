"""Quantised weights, dequantised again, against the merged weights: errors, norms, and clipping.

Rounding a weight up or down moves it by less than the step between the two levels it lies between.
A weight that moved further lay beyond the outermost level: it was clipped, which quantisers that tune
their ranges do to outliers. In a row of DoRA's W' that takes magnitude away.

Rounding itself changes the norm of a row, too. With errors e of variance v = step² / 3, which is that
of any value within a step to either side, ``‖w + e‖² - ‖w‖²`` has the mean ``Σ v`` and the standard
deviation ``2 sqrt(Σ w² v)``; the limit on a norm is half of the mean and five deviations, over ``‖w‖²``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from doratune.errors import ModelError
from doratune.progress import track
from doratune.record.quantized import ClippedWeight, LayerQuantization

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DEVIATIONS = 5
_SLACK = 1 + 2**-5
"""Scales that are stored in bfloat16 move the outermost of 8 levels by a 32nd of a step."""


class Levels(NamedTuple):
    """A quantised weight, and how fine its levels are."""

    W_OI: Tensor
    """Dequantised, (out_features, in_features), float32."""
    step_OI: Tensor
    """Between the two levels that the weight before quantising lies between, of a shape that expands."""


class WeightFindings(NamedTuple):
    """All quantised layers of a model."""

    layers: list[LayerQuantization]
    unquantized: list[str]
    weight_error: float
    """All of them as one matrix."""
    clipped: ClippedWeight | None


@torch.no_grad()
def compare_quantized(
    merged: PreTrainedModel, quantized: PreTrainedModel, magnitudes: Mapping[str, Tensor]
) -> WeightFindings:
    """Compares every quantised layer with the layer it was made of.

    Args:
        merged: The model before.
        quantized: The model afterwards; a folder of compressed-tensors must have run once, which
            unpacks its weights.
        magnitudes: Of the adapted layers, (out_features,); for others the norms before count.

    Raises:
        ModelError: No layer is quantised, or a kind of layer is not known.
    """
    layers: list[LayerQuantization] = []
    worst: tuple[float, ClippedWeight] | None = None
    error = weight = 0.0
    found = [(name, module) for name, module in quantized.named_modules() if is_quantized(module)]
    if not found:
        raise ModelError(
            f"{quantized.name_or_path} holds no quantised layer, though it was to be quantised. Please "
            "report this with the versions of transformers and compressed-tensors."
        )
    for name, module in track(found, "Comparing weights", total=len(found)):
        before = merged.get_submodule(name)
        W_OI = before.weight.detach().float()
        W_OI = W_OI.T if isinstance(before, Conv1D) else W_OI
        after = levels(module, W_OI)
        magnitude = magnitudes.get(name, torch.linalg.vector_norm(W_OI, dim=1))
        layer, clipped = check_layer(name, W_OI, after, magnitude)
        layers.append(layer)
        if clipped and (worst is None or clipped[0] > worst[0]):
            worst = clipped
        squares = W_OI.double().square().sum().item()
        weight += squares
        error += layer.weight_error**2 * squares
    head = quantized.get_output_embeddings()
    left = [
        name
        for name, module in quantized.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not is_quantized(module)
    ]
    return WeightFindings(layers, left, (error / weight) ** 0.5, worst[1] if worst else None)


def is_quantized(module: nn.Module) -> bool:
    """Whether it is a layer of bitsandbytes in 4 bits, or of compressed-tensors."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    return state is not None or getattr(module, "weight_scale", None) is not None


def levels(module: Any, before_OI: Tensor) -> Levels:
    """Dequantises a layer.

    Args:
        module: A layer for which `is_quantized` holds.
        before_OI: Its weight before, float32.
    """
    if getattr(module, "weight_scale", None) is not None:
        scale_OG = module.weight_scale.detach().float().abs()
        return Levels(
            module.weight.detach().float(),
            scale_OG.repeat_interleave(before_OI.shape[1] // scale_OG.shape[1], dim=1),
        )
    from bitsandbytes.functional import dequantize_4bit, dequantize_blockwise

    state = module.weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = dequantize_blockwise(absmax, state.state2) + state.offset
    # Blocks go on from one row to the next.
    each = absmax.float().repeat_interleave(state.blocksize)[: before_OI.numel()]
    code = state.code.float()
    gaps = code.diff()
    at = torch.bucketize(before_OI.reshape(-1) / each, code[1:-1])
    W_OI = dequantize_4bit(module.weight.data, state).float()
    return Levels(W_OI, (gaps[at] * each).view_as(before_OI))


def check_layer(
    name: str, before_OI: Tensor, after: Levels, magnitude_O: Tensor
) -> tuple[LayerQuantization, tuple[float, ClippedWeight] | None]:
    """Errors, norms and clipping of one layer.

    Returns:
        The figures, and of the weight that lost most by clipping how much that is, over the norm of
        its row; None where none was clipped.
    """
    error_OI = after.W_OI - before_OI
    variance_OI = after.step_OI.square().expand_as(before_OI) / 3
    squares_O = before_OI.square().sum(1)
    spread_O = (before_OI.square() * variance_OI).sum(1).sqrt()
    tiny = torch.finfo(torch.float32).tiny
    limit_O = (variance_OI.sum(1) / 2 + _DEVIATIONS * spread_O) / squares_O.clamp(min=tiny)
    norm_O = torch.linalg.vector_norm(after.W_OI, dim=1)
    off_O = (norm_O / magnitude_O.float().abs().clamp(min=tiny) - 1).abs()
    off_O = torch.where(squares_O > 0, off_O, 0.0)  # a row of zeros has no magnitude to lose
    worst = int((off_O / limit_O.clamp(min=tiny)).argmax())
    clipped_OI = error_OI.abs() > _SLACK * after.step_OI
    layer = LayerQuantization(
        layer=name,
        weight_error=(error_OI.norm() / before_OI.norm().clamp(min=tiny)).item(),
        norm_error=off_O[worst].item(),
        norm_limit=limit_O[worst].item(),
        num_rows=len(off_O),
        num_rows_beyond=int((off_O > limit_O).sum()),
        num_weights=before_OI.numel(),
        num_clipped=int(clipped_OI.sum()),
    )
    if not layer.num_clipped:
        return layer, None
    lost_OI = (
        torch.where(clipped_OI, error_OI.abs(), 0.0) / squares_O.clamp(min=tiny).sqrt()[:, None]
    )
    row, column = divmod(int(lost_OI.argmax()), before_OI.shape[1])
    return layer, (
        lost_OI[row, column].item(),
        ClippedWeight(
            layer=name,
            row=row,
            weight=before_OI[row, column].item(),
            quantized=after.W_OI[row, column].item(),
        ),
    )

"""PEFT's extension point for DoRA, filled with doratune's op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from doratune.adapter.adapted_norm import AdaptedNorm
from doratune.adapter.reuse import Reused
from doratune.adapter.sharding import whole_bias, whole_weight
from doratune.ops import dora_linear, infer_, mag_norm_scale
from doratune.ops.precision import full_precision


class FastDoraLinearVariant(DoraLinearVariant):
    """Takes the place of PEFT's ``DoraLinearVariant`` in one layer for one adapter.

    Merging and unmerging stay PEFT's.
    """

    def __init__(self, replaced: DoraLinearVariant) -> None:
        self.replaced = replaced
        self.norm = AdaptedNorm()
        self._fixed: Reused[_FixedFactors] = Reused()

    def supports_lora_conversion(self) -> bool:
        """False: ``peft.convert_to_lora`` would drop the magnitude without a word."""
        return False

    def unmerge(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """PEFT's own; what comes back is W up to rounding, and for a quantised layer a new one."""
        forget_base(module)
        return self.replaced.unmerge(module, active_adapter, orig_weight)

    def weight_norm(self, module: LoraLayer, adapter_name: str) -> Tensor:
        """Norm of every output feature of the adapted weight, (out_features,), float32.

        Computed once for every optimizer step, however many forwards there are; see ``reuse.py``.
        """
        A, B, _ = _factors(module, adapter_name)
        W = plain_weight(module.get_base_layer())
        return self.norm.of(module, A, B, module.scaling[adapter_name], W)

    def forward(
        self, module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """The layer's output; see `doratune.ops.dora_linear`. Writes into ``result``."""
        base_layer = _base_layer(module)
        # A second active adapter gets the first one's output: that has been kept, and its gradient is
        # not the base's alone.
        is_first = active_adapter == _first_active(module)
        if base_layer._forward_hooks or not is_first:
            result = result.clone()  # somebody may have kept it
        A, B, m = _factors(module, active_adapter)
        scaling, bias = module.scaling[active_adapter], whole_bias(base_layer)
        p = getattr(module.lora_dropout[active_adapter], "p", 0.0) if module.training else 0.0
        if not (torch.is_grad_enabled() or p or torch.compiler.is_compiling()):
            return self._infer(module, x, result, A, B, m, scaling, bias)
        W = plain_weight(base_layer)
        n = self.norm.of(module, A, B, scaling, W)
        weight: Tensor | Callable[[Tensor], Tensor] = self.norm.base(module).rows
        if W is not None and W.dtype == result.dtype and is_first:
            weight = W
        return dora_linear(result, x, weight, A, B, m, n, scaling, bias, p)

    def _infer(
        self,
        module: LoraLayer,
        x: Tensor,
        result: Tensor,
        A: Tensor,
        B: Tensor,
        m: Tensor,
        scaling: float,
        bias: Tensor | None,
    ) -> Tensor:
        """The same without gradients, from factors that are made once: three operations a token."""
        wide = result.is_cpu and result.dtype is not torch.float64
        dtype = torch.float32 if wide else result.dtype

        def make() -> _FixedFactors:
            n_O = self.norm.of(module, A, B, scaling, plain_weight(module.get_base_layer()))
            g_O = mag_norm_scale(m.float(), n_O)
            rest_O = None if bias is None else (1 - g_O) * bias.float()
            return _FixedFactors(A.to(dtype).T, B.to(dtype).T, scaling, g_O, rest_O)

        with full_precision(result.device):
            made_from = [A, B, m] if bias is None else [A, B, m, bias]
            # Where the dtype allows it the factors are views of A and B: of this memory and no other.
            settings = (scaling, dtype, A.data_ptr(), B.data_ptr())
            fixed = self._fixed.get(made_from, settings, module.training, make)
            infer_(result.view(-1, result.shape[-1]), x.reshape(-1, x.shape[-1]), *fixed)
        return result


class _FixedFactors(NamedTuple):
    """What a forward without gradients needs; see `doratune.ops.infer_`."""

    A_IR: Tensor
    B_RO: Tensor
    scaling: float
    g_O: Tensor
    rest_O: Tensor | None


def _factors(module: LoraLayer, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and the magnitude.

    Past `nn.Module.__getattr__`, with which the nine look-ups take 4 µs, a fifth of a LoRA layer.
    """
    holders = module._modules
    A, B, m = (
        whole_weight(holders[kind]._modules[adapter_name])
        for kind in ("lora_A", "lora_B", "lora_magnitude_vector")
    )
    return A, B, m


def _base_layer(module: LoraLayer) -> nn.Module:
    """``get_base_layer``, which finds out by a failing `hasattr` that it has arrived: 2 µs."""
    layer: nn.Module = module._modules["base_layer"]
    return layer if isinstance(layer, nn.Linear) else module.get_base_layer()


def _first_active(module: LoraLayer) -> str | None:
    active = module.active_adapters
    if len(active) == 1:
        return active[0]
    return next((name for name in active if name in module.lora_A), None)


def forget_base(module: LoraLayer) -> None:
    """Makes every adapter of a layer read the base weight anew."""
    for variant in module.lora_variant.values():
        norm = getattr(variant, "norm", None)
        if isinstance(norm, AdaptedNorm):
            norm.forget()


def plain_weight(layer: nn.Module) -> Tensor | None:
    """W (O, I), if the op may stand in for the layer: a frozen tensor, and nothing hooked in."""
    weight = getattr(layer, "weight", None)
    if type(weight) is not nn.Parameter or weight.requires_grad or hasattr(weight, "ds_id"):
        return None
    if not isinstance(layer, (nn.Linear, Conv1D)) or "forward" in layer.__dict__:
        return None
    if layer._forward_hooks or layer._forward_pre_hooks:
        return None
    if layer._backward_hooks or layer._backward_pre_hooks:
        return None
    return weight.T if isinstance(layer, Conv1D) else weight

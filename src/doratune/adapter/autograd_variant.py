"""What the fast embedding and the fast convolution share."""

from __future__ import annotations

from abc import abstractmethod

from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor

from doratune.adapter.adapted_norm import AdaptedNorm
from doratune.adapter.sharding import whole_weight
from doratune.adapter.variant import forget_base
from doratune.ops import mag_norm_scale


class FastDoraAutogradVariant(LoraVariant):
    """DoRA with the factored norm, differentiated by PyTorch; merging and unmerging stay PEFT's.

    It keeps one more tensor of the output's size than PEFT's LoRA does, where the op for linear layers
    keeps none: of these layers a model has few.
    """

    def __init__(self, replaced: LoraVariant) -> None:
        self.replaced = replaced
        self.norm = AdaptedNorm()

    @staticmethod
    @abstractmethod
    def factors(module: LoraLayer, adapter_name: str) -> tuple[Tensor, Tensor]:
        """A (R, I) and B (O, R), such that the adapted weight is ``W + scaling B A``."""

    def weight_norm(self, module: LoraLayer, adapter_name: str) -> Tensor:
        """Norm of every output feature of the adapted weight, (O,), float32."""
        A, B = self.factors(module, adapter_name)
        return self.norm.of(module, A, B, module.scaling[adapter_name])

    def scale(
        self, module: LoraLayer, adapter_name: str, unscaled: Tensor, bias: Tensor | None, dim: int
    ) -> Tensor:
        """``g (unscaled - bias) + bias``, so arranged that g = 1 changes no bit; float32 or wider.

        Args:
            module: PEFT's layer.
            adapter_name: The adapter whose magnitude is used.
            unscaled: Base result, with its bias, plus the low-rank branch.
            bias: Of the base layer, (O,).
            dim: Dimension of ``unscaled`` that holds the output features.
        """
        n_O = self.weight_norm(module, adapter_name)
        m_O = whole_weight(module.lora_magnitude_vector[adapter_name]).flatten()
        g_O = mag_norm_scale(m_O, n_O)
        shape = [-1 if each == dim % unscaled.dim() else 1 for each in range(unscaled.dim())]
        # Not g y + (1 - g) bias: there the gradient of g is a difference of two large sums.
        without_bias = unscaled if bias is None else unscaled - bias.view(shape)
        return unscaled + (g_O - 1).view(shape) * without_bias

    def supports_lora_conversion(self) -> bool:
        """False: ``peft.convert_to_lora`` would drop the magnitude without a word."""
        return False

    def merge_safe(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """PEFT's own."""
        return self.replaced.merge_safe(module, active_adapter, orig_weight)

    def merge_unsafe(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> None:
        """PEFT's own."""
        self.replaced.merge_unsafe(module, active_adapter, orig_weight)

    def unmerge(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """PEFT's own; what comes back is W up to rounding."""
        forget_base(module)
        return self.replaced.unmerge(module, active_adapter, orig_weight)

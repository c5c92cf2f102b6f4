"""Fast DoRA for token embeddings."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora.layer import Embedding
from torch import Tensor

from doratune.adapter.autograd_variant import FastDoraAutogradVariant


class FastDoraEmbeddingVariant(FastDoraAutogradVariant):
    """Takes the place of PEFT's ``DoraEmbeddingVariant`` in one layer for one adapter.

    The magnitude has one value for every dimension of the embedding, as in PEFT: the weight is the
    transposed table. Dropout does not apply, as in PEFT: there is no input to drop.
    """

    @staticmethod
    def factors(module: Embedding, adapter_name: str) -> tuple[Tensor, Tensor]:
        """``lora_embedding_A`` (R, tokens) and ``lora_embedding_B`` (dimensions, R)."""
        return module.lora_embedding_A[adapter_name], module.lora_embedding_B[adapter_name]

    def forward(
        self, module: Embedding, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """The layer's output for token numbers x."""
        A_RV, B_DR = self.factors(module, active_adapter)
        low = module._embed(x, A_RV.T) @ B_DR.T * module.scaling[active_adapter]
        embed_scale = module._get_embed_scale()  # Gemma's embeddings multiply their output
        if embed_scale is not None:
            low = low * embed_scale.to(low.dtype)
        return self.scale(module, active_adapter, result + low, None, -1)

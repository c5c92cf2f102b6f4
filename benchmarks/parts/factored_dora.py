"""DoRA by dorafactors' published method: factored norm and fused composition. Own implementation.

From "Scaling DoRA: High-Rank Adaptation via Factored Norms and Fused Kernels" (arXiv 2603.22276):
the norm from base, cross and Gram terms, in chunks of the input features, float32, all three at
every forward; the composition ``(g - 1) base + g s lora`` in one pass that also gives ``base + s
lora``, which is kept for the magnitude's gradient; its backward in one pass. As in PEFT, which they
fork, the result is added to the base layer's output, and with dropout the base product is formed a
second time, of the dropped input.

Their Triton kernels are stood in for by the ones that `torch.compile` makes of the same two passes.

T tokens, O out_features, I in_features, R rank.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 256 << 20
"""Their default size of a chunk of the weight in float32."""


class FactoredDoraLinear(nn.Module):
    """Stands in for a PEFT DoRA layer and keeps the names of its parameters."""

    def __init__(self, layer: LoraLayer) -> None:
        super().__init__()
        self.base_layer = layer.get_base_layer()
        self.lora_A, self.lora_B = layer.lora_A, layer.lora_B
        self.lora_dropout = layer.lora_dropout
        self.lora_magnitude_vector = layer.lora_magnitude_vector
        self.scaling = layer.scaling["default"]

    def forward(self, x: Tensor) -> Tensor:
        """Same result as PEFT's layer."""
        base, dropout = self.base_layer, self.lora_dropout["default"]
        A, B = self.lora_A["default"], self.lora_B["default"]
        result = base(x)
        if isinstance(dropout, nn.Identity) or not self.training:
            low = x
            plain = result if base.bias is None else result - base.bias
        else:
            low = dropout(x)
            plain = nn.functional.linear(low, base.weight)
        lora = B(A(low.to(A.weight.dtype)))
        n_O = factored_norm(base.weight, A.weight, B.weight, self.scaling)
        g_O = self.lora_magnitude_vector["default"].weight / n_O
        delta = _Compose.apply(plain, lora, g_O.view(-1), self.scaling)
        return result + delta.to(result.dtype)


@torch.no_grad()
def factored_norm(W_OI: Tensor, A_RI: Tensor, B_OR: Tensor, scaling: float) -> Tensor:
    """``‖W + scaling B A‖`` of every output feature, (O,), float32."""
    B_OR, A_RI = B_OR.float(), A_RI.float()
    base_O = torch.zeros(W_OI.shape[0], device=W_OI.device)
    product_OR = torch.zeros_like(B_OR)
    width = max(64, CHUNK_BYTES // (4 * W_OI.shape[0]))
    for W_OC, A_RC in zip(W_OI.split(width, 1), A_RI.split(width, 1), strict=True):
        chunk_OC = W_OC.float()
        base_O += chunk_OC.square().sum(1)
        product_OR.addmm_(chunk_OC, A_RC.T)
    cross_O = (product_OR * B_OR).sum(1)
    gram_O = ((B_OR @ (A_RI @ A_RI.T)) * B_OR).sum(1)
    squared_O = base_O + 2 * scaling * cross_O + scaling**2 * gram_O
    return squared_O.clamp_min(0).sqrt().clamp_min(1e-12)


def _forward(plain: Tensor, lora: Tensor, g_O: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    scaled = scaling * lora.float()
    inner = scaled + plain.float()
    return ((g_O - 1) * plain.float() + g_O * scaled).to(plain.dtype), inner.to(plain.dtype)


def _backward(ddelta: Tensor, g_O: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    dy = ddelta.float()
    return ((g_O - 1) * dy).to(ddelta.dtype), (g_O * scaling * dy).to(ddelta.dtype)


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=True)


class _Compose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plain: Tensor, lora: Tensor, g_O: Tensor, scaling: float) -> Tensor:
        one_pass = _compiled(_forward) if plain.is_cuda else _forward
        delta, inner = one_pass(plain, lora, g_O, scaling)
        ctx.save_for_backward(inner, g_O)
        ctx.scaling, ctx.lora_dtype = scaling, lora.dtype
        return delta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ddelta: Tensor) -> tuple[Tensor | None, ...]:
        inner, g_O = ctx.saved_tensors
        one_pass = _compiled(_backward) if ddelta.is_cuda else _backward
        dplain, dlora = one_pass(ddelta, g_O, ctx.scaling)
        axes = tuple(range(ddelta.dim() - 1))
        dg_O = (ddelta * inner).sum(axes, dtype=torch.float32)
        return dplain, dlora.to(ctx.lora_dtype), dg_O.to(g_O.dtype), None

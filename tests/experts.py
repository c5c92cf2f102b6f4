"""Tiny mixtures of experts as transformers stores them, and PEFT's adapters on their parameters."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    Llama4TextConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

IDS = torch.tensor([[3, 40, 5, 26, 7, 9, 11, 2]])
_SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    # One tensor for each expert and projection; names differ from the model's in Mixtral.
    "mixtral": MixtralConfig(**_SIZES, num_local_experts=3, num_experts_per_tok=2),
    "qwen3": Qwen3MoeConfig(
        **_SIZES, moe_intermediate_size=12, num_experts=4, num_experts_per_tok=2
    ),
    # The parameter as it is in the model, (experts, in_features, out_features).
    "gpt-oss": GptOssConfig(
        **_SIZES, num_local_experts=3, num_experts_per_tok=2, rope_parameters={"rope_type": "default"}
    ),
    "llama4": Llama4TextConfig(
        **_SIZES, intermediate_size_mlp=24, num_local_experts=3, num_experts_per_tok=1,
        interleave_moe_layer_step=1,
    ),
}  # fmt: skip


def load(path: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, experts_implementation="eager"
    )
    return model.eval()


def save_base(kind: str, path: Path, *, save_original_format: bool = True, **sizes: int) -> Path:
    """Random weights large enough that logits differ."""
    torch.manual_seed(0)
    config = deepcopy(CONFIGS[kind])
    config.update(sizes)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(path, save_original_format=save_original_format)
    return path


def save_adapter(
    base: Path, path: Path, targets: list[str] | None, seed: int = 1, **config: Any
) -> Path:
    """Trained as little as random numbers are."""
    torch.manual_seed(seed)
    settings = {"r": 2, "lora_alpha": 3, "target_modules": [], "target_parameters": targets}
    model = get_peft_model(load(base), LoraConfig(**{**settings, **config}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(str(path))
    return path


def peft_model(base: Path, adapter: Path) -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(load(base), str(adapter)).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """In float64, so that what differs are the weights."""
    found: Tensor = model.double()(IDS).logits
    return found

"""Tiny models with DoRA adapters that look trained."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from tests.tiny import tiny_model


def tokens() -> torch.Tensor:
    return torch.randint(0, 400, (3, 17), generator=torch.Generator().manual_seed(5))


def llama_with_bias(dtype: torch.dtype = torch.float32) -> nn.Module:
    model = tiny_model(attention_bias=True, mlp_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    return model.to(dtype)


def gpt2(n_embd: int = 32) -> nn.Module:
    """Its projections are transformers' Conv1D: weights stored (in, out)."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=400, n_positions=64, n_embd=n_embd, n_layer=2, n_head=4, initializer_range=0.1
    )
    return GPT2LMHeadModel(config).eval()


def with_dora(base: nn.Module, *, trained: bool, **config: object) -> PeftModel:
    settings: dict[str, object] = {
        "use_dora": True,
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
        "fan_in_fan_out": isinstance(base, GPT2LMHeadModel),
    }
    torch.manual_seed(1)
    model = get_peft_model(copy.deepcopy(base), LoraConfig(**{**settings, **config}))
    if trained:
        move_off_start(model)
    return model.eval()


def move_off_start(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
        if "lora_B" in name:
            parameter.data.copy_(0.1 * noise)
        elif "magnitude" in name:
            parameter.data.mul_(1 + 0.1 * noise)


def loss_and_gradients(model: nn.Module) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(input_ids=tokens(), labels=tokens()).loss
    loss.backward()
    return loss.item(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }

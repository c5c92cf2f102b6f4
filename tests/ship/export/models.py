"""Tiny random models of the families that GGUF files are written for."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.ship.export.tokenizers import byte_level, sentencepiece, with_bos

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN_ROPE = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}


def family(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model with large random weights, biases and norms included, and a fitting tokenizer."""
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "initializer_range": 0.1, "vocab_size": 448, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 1,
    }  # fmt: skip
    if name == "smollm":
        model = LlamaForCausalLM(LlamaConfig(**settings, tie_word_embeddings=True))
        tokenizer = byte_level("smollm")
    elif name == "llama2":
        settings |= {"vocab_size": 608, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        model = LlamaForCausalLM(LlamaConfig(**settings, tie_word_embeddings=False))
        tokenizer = sentencepiece()
    elif name == "llama3":
        config = LlamaConfig(**settings, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=False)
        model, tokenizer = LlamaForCausalLM(config), with_bos(byte_level("llama-bpe"))
    elif name == "llama-bias":
        config = LlamaConfig(**settings, attention_bias=True, rope_parameters=LINEAR_ROPE)
        model, tokenizer = LlamaForCausalLM(config), byte_level("gpt-2")
    elif name == "mistral":
        config = MistralConfig(**settings, head_dim=32, sliding_window=None)
        model, tokenizer = MistralForCausalLM(config), with_bos(byte_level("tekken"))
    elif name == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**settings, rope_parameters=YARN_ROPE))
        tokenizer = byte_level("qwen2")
    else:
        config = Qwen3Config(**settings, head_dim=32, tie_word_embeddings=True)
        model, tokenizer = Qwen3ForCausalLM(config), byte_level("qwen2")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm" in key))
    return model.eval(), tokenizer


FAMILIES = ["smollm", "llama2", "llama3", "llama-bias", "mistral", "qwen2", "qwen3"]


def save_family(name: str, path: Path) -> Path:
    model, tokenizer = family(name)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path

"""A tiny model with each kind of layer that an adapter can lie on, and which one that is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GitConfig,
    GitForCausalLM,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from tests.adapter.models import gpt2
from tests.ship.adapters import peft_model, randomise, write_origin
from tests.ship.export.runs import seal
from tests.tiny import tiny_model, tiny_tokenizer


class Kind(NamedTuple):
    """One kind of layer in one model."""

    make: Callable[[], PreTrainedModel]
    load: Callable[[Path], PreTrainedModel]
    layer: str
    config: dict[str, Any]


def git() -> PreTrainedModel:
    """A causal language model that looks at pictures through a convolution."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 24, "initializer_range": 0.1,
    }  # fmt: skip
    eyes = {**sizes, "image_size": 8, "patch_size": 4}
    config = GitConfig(vision_config=eyes, vocab_size=400, max_position_embeddings=64, **sizes)
    return GitForCausalLM(config).eval()


def gemma() -> PreTrainedModel:
    """Its embedding multiplies what it looks up."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, pad_token_id=1,
        max_position_embeddings=64, initializer_range=0.1,
    )  # fmt: skip
    return Gemma3ForCausalLM(config).eval()


def whisper() -> PreTrainedModel:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=400, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=8,
        max_source_positions=20, max_target_positions=20, pad_token_id=1, bos_token_id=1,
        eos_token_id=1, decoder_start_token_id=1,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config).eval()


KINDS = {
    "Linear": Kind(
        tiny_model, LlamaForCausalLM.from_pretrained, "model.layers.0.mlp.up_proj",
        {"target_modules": ["up_proj"]},
    ),
    "Conv1D": Kind(
        gpt2, GPT2LMHeadModel.from_pretrained, "transformer.h.0.mlp.c_fc",
        {"target_modules": ["c_fc"], "fan_in_fan_out": True},
    ),
    "Embedding": Kind(
        tiny_model, LlamaForCausalLM.from_pretrained, "model.embed_tokens",
        {"target_modules": ["embed_tokens"]},
    ),
    "scaled Embedding": Kind(
        gemma, Gemma3ForCausalLM.from_pretrained, "model.embed_tokens",
        {"target_modules": ["embed_tokens"]},
    ),
    "Conv1d": Kind(
        whisper, WhisperForConditionalGeneration.from_pretrained, "model.encoder.conv1",
        {"target_modules": ["encoder.conv1"]},
    ),
    "Conv2d": Kind(
        git, GitForCausalLM.from_pretrained,
        "git.image_encoder.vision_model.embeddings.patch_embedding",
        {"target_modules": ["patch_embedding"]},
    ),
}  # fmt: skip


def save_kind(kind: Kind, folder: Path) -> tuple[Path, Path]:
    """Saves a base and a DoRA adapter far from the identity on the layer of that kind.

    Returns:
        Their folders.
    """
    base, adapter = folder / "base", folder / "adapter"
    kind.make().save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    return base, adapt(kind.load(base), base, adapter, **kind.config)


def adapt(model: PreTrainedModel, base: Path, adapter: Path, **config: object) -> Path:
    """Saves a sealed DoRA adapter in which an embedding's factors are far from zero too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT on tied weights
        adapted = randomise(peft_model(model, **config))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_embedding" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(str(adapter))
    write_origin(base, adapter, "dora")
    return seal(adapter)


def merged_by_peft(kind: Kind, base: Path, adapter: Path) -> Tensor:
    """The layer's weight in stock PEFT with an adapter merged, in float64: independent truth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT on tied weights
        model: Any = PeftModel.from_pretrained(kind.load(base), str(adapter)).double()
        model.base_model.merge_adapter()
    with torch.no_grad():
        return model.base_model.model.get_submodule(kind.layer).base_layer.weight.clone()

"""Which transformers models have a place in a GGUF file, and under which names and keys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType, get_tensor_name_map
from torch import Tensor
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from doratune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ARCHITECTURES = {
    "LlamaForCausalLM": MODEL_ARCH.LLAMA,
    "MistralForCausalLM": MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": MODEL_ARCH.QWEN3,
}
"""By the first of ``architectures`` in config.json."""

_ROPE_FREQS = "rope_freqs.weight"
_RECOMPUTED = "rotary_emb.inv_freq"
"""Stored by old checkpoints, and computed by every engine."""


class GgufModel(NamedTuple):
    """A model that can be written."""

    arch: MODEL_ARCH
    config: PretrainedConfig
    names: dict[str, str]
    """Every tensor of the checkpoint that is written, and its name in the file."""

    def converted(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor in llama.cpp's layout.

        transformers turns the halves of a head against each other, llama.cpp's Llama its even and odd
        rows: the rows of q and k are put in the other order.
        """
        if self.arch != MODEL_ARCH.LLAMA:
            return tensor
        part = name.rsplit(".", 2)[-2]
        heads = {
            "q_proj": self.config.num_attention_heads,
            "k_proj": self.config.num_key_value_heads,
        }.get(part)
        if heads is None:
            return tensor
        halves = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)


def gguf_model(folder: Path, tensor_names: Iterable[str]) -> GgufModel:
    """Matches a checkpoint with an architecture of llama.cpp.

    Raises:
        ModelError: The architecture is not one of `ARCHITECTURES`, a setting has no place in the file,
            or a tensor has no name there.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    found = (config.architectures or ["no architecture"])[0]
    if found not in ARCHITECTURES:
        raise ModelError(
            f"{folder / 'config.json'} names {found}; GGUF files are written for "
            f"{', '.join(ARCHITECTURES)}. Export it as a merged folder (--to merged) and use the "
            "converter of llama.cpp."
        )
    _check_settings(folder, config)
    arch = ARCHITECTURES[found]
    known = get_tensor_name_map(arch, config.num_hidden_layers)
    names: dict[str, str] = {}
    for name in sorted(tensor_names):
        if name.endswith(_RECOMPUTED) or (config.tie_word_embeddings and name == "lm_head.weight"):
            continue
        target = known.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ModelError(
                f"{folder} holds the tensor {name}, which has no place in a GGUF file of the "
                f"architecture {found}. Export it as a merged folder (--to merged)."
            )
        names[name] = target
    return GgufModel(arch, config, names)


def _check_settings(folder: Path, config: PretrainedConfig) -> None:
    def refuse(setting: str, found: object, expected: str) -> ModelError:
        return ModelError(
            f"{folder / 'config.json'} sets {setting} to {found!r}; GGUF files are written for "
            f"{expected}. Export it as a merged folder (--to merged)."
        )

    if config.hidden_act != "silu":
        raise refuse("hidden_act", config.hidden_act, "'silu'")
    rope = config.rope_parameters
    if rope["rope_type"] not in ("default", "linear", "yarn", "llama3"):
        raise refuse("rope_type", rope["rope_type"], "'default', 'linear', 'yarn' and 'llama3'")
    if rope["rope_type"] == "llama3" and ARCHITECTURES[config.architectures[0]] != MODEL_ARCH.LLAMA:
        raise refuse("rope_type", "llama3", "'default', 'linear' and 'yarn' in this architecture")
    if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise refuse("partial_rotary_factor", rope["partial_rotary_factor"], "1")


def add_settings(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Writes the hyperparameters."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_rope(writer, config.rope_parameters)


def context_length(config: PretrainedConfig) -> int:
    """Positions up to which llama.cpp and transformers compute the same.

    llama.cpp has no sliding window for these architectures, so a model with one ends with it.
    """
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    window = getattr(config, "sliding_window", None)
    if window is None or "sliding_attention" not in kinds:
        return int(config.max_position_embeddings)
    return int(min(window, config.max_position_embeddings))


def _add_rope(writer: GGUFWriter, rope: dict[str, Any]) -> None:
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for key, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if rope.get(key) is not None:
                add(rope[key])


def extra_tensors(model: GgufModel) -> dict[str, Tensor]:
    """Tensors that the checkpoint does not hold: the factors of Llama 3's scaled rotary frequencies."""
    config = model.config
    if config.rope_parameters["rope_type"] != "llama3":
        return {}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    exponents = torch.arange(0, 2 * len(scaled), 2, dtype=torch.float32) / (2 * len(scaled))
    plain = 1.0 / config.rope_parameters["rope_theta"] ** exponents
    return {_ROPE_FREQS: plain / scaled}

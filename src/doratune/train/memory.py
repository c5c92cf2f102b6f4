"""The memory that a training will take, from shapes alone."""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from doratune.recipe import Recipe

PROCESS_BYTES = 1 << 30
"""On a CPU: Python with torch, transformers and TRL (0.7 GiB), and what a first backward pass loads."""

HEAP = 1.9
"""Resident over live bytes of activations on a CPU: glibc keeps most of what was freed between them.
1.5 to 2.0 for DoRA, 2.1 to 2.6 for LoRA, which keeps fewer activations (SmolLM2-135M)."""

QUANTISED_BYTES = {"nf4": 0.5 + (1 + 4 / 256) / 64, "int8": 1.0}
"""Of a weight. NF4: blocks of 64 with an 8-bit scale, and those in blocks of 256."""

# TRL 1.16 makes logits of tiles of 4,096 trained tokens by 32,768 entries of the vocabulary, once and
# with Triton, else with eight temporaries of that size (1,000 tokens less 500: 8.1).
_TILE_TOKENS, _TILE_WIDTH = 4096, 32768
_TILE_COPIES = 8


def peak_bytes(
    model: PreTrainedModel | PeftModel, recipe: Recipe, num_tokens: int, num_learned: int
) -> int:
    """Estimate of the peak of a training, within about 15 % where it was measured (SmolLM2 on a CPU).

    On a GPU what torch allocates there, as `TrainFile.peak_memory_bytes` counts it; on a CPU the whole
    process.

    Args:
        model: The model to train; may be on the meta device.
        recipe: Says how it is trained.
        num_tokens: Of the largest batch, with its padding.
        num_learned: Those of them that are trained on.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    # The gradient in the parameter's precision, and two float32 moments.
    state = sum(p.numel() * (p.element_size() + 8) for p in trainable)
    kept = num_tokens * _kept_per_token(model, recipe) * next(model.parameters()).element_size()
    vocabulary = model.config.get_text_config().vocab_size
    tile = 4 * min(num_learned, _TILE_TOKENS) * min(vocabulary, _TILE_WIDTH)
    fixed = _weight_bytes(model, recipe) + state
    if torch.cuda.is_available():
        return fixed + kept + tile
    return PROCESS_BYTES + fixed + round(HEAP * kept) + _TILE_COPIES * tile


def _kept_per_token(model: PreTrainedModel | PeftModel, recipe: Recipe) -> int:
    """Numbers that a token leaves for the backward pass.

    Counted with ``saved_tensors_hooks`` in a Llama block with adapters on all seven linear layers: 10.6
    hidden and 4.2 inner sizes with DoRA, 6.7 and 4.0 with LoRA, 8.7 and 4.0 with all weights trained.
    DoRA's are taken for all, since on a CPU LoRA's heap makes up for them.
    """
    config = model.config.get_text_config()
    layers, hidden = config.num_hidden_layers, config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    block = 11 * hidden + 4 * inner
    if recipe.adapter.method == "lora" and recipe.adapter.lora_dropout:
        # PEFT's layers keep a mask and the dropped input each.
        block += 10 * hidden + inner
    # With checkpointing, the input of every block and all of the one that is computed again.
    return block + layers * hidden if recipe.train.gradient_checkpointing else layers * block


def _weight_bytes(model: PreTrainedModel | PeftModel, recipe: Recipe) -> int:
    """All parameters; of a model on the meta device, at the size that they will be quantised to."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    if recipe.model.quantize is None or not next(model.parameters()).is_meta:
        return total
    size = QUANTISED_BYTES[recipe.model.quantize]
    head = model.get_output_embeddings()
    quantised = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head and not module.weight.requires_grad
    ]
    return total - round(sum(w.numel() * (w.element_size() - size) for w in quantised))

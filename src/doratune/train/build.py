"""The model to be trained: base, adapter, fast layers."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from doratune.adapter import FastDoraSummary, enable_fast_dora
from doratune.base import load_base
from doratune.errors import ModelError
from doratune.recipe import Recipe
from doratune.recipe.schema import AdapterSection


def build_model(
    recipe: Recipe, base_path: Path
) -> tuple[PreTrainedModel | PeftModel, FastDoraSummary]:
    """Loads the base and puts a fresh adapter on it, or unfreezes it for ``method: full``.

    Full fine-tuning keeps float32 weights unless the recipe names another precision: updates of the
    usual size vanish in bfloat16.

    Raises:
        ModelError: A target module matches nothing.
    """
    set_seed(recipe.seed)
    adapter = recipe.adapter
    model = load_base(base_path, base_dtype(recipe), recipe.model.quantize)
    if adapter.method == "full":
        return model.requires_grad_(True), FastDoraSummary()
    check_targets(model, adapter)
    model = get_peft_model(model, lora_config(adapter))
    return model, enable_fast_dora(model)


def base_dtype(recipe: Recipe) -> str:
    """Precision of the weights in training, as `load_base` takes it."""
    if recipe.adapter.method == "full" and recipe.model.dtype == "auto":
        return "float32"
    return recipe.model.dtype


def lora_config(adapter: AdapterSection) -> LoraConfig:
    """PEFT's configuration of the adapter section."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        target_modules=adapter.target_modules,
        rank_pattern=adapter.rank_pattern,
        alpha_pattern=adapter.alpha_pattern,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.method == "dora",
    )


def check_targets(model: nn.Module, adapter: AdapterSection) -> None:
    """Makes sure that every entry of ``target_modules`` names at least one linear layer.

    PEFT passes over an entry that matches nothing as long as another one matches.

    Raises:
        ModelError: An entry matches nothing; the message suggests the nearest name.
    """
    if adapter.target_modules == "all-linear":
        return
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    endings = Counter(name.rpartition(".")[2] for name in names)
    for target in adapter.target_modules:
        if any(name == target or name.endswith(f".{target}") for name in names):
            continue
        near = difflib.get_close_matches(target, endings, n=1)
        hint = (
            f"Did you mean {near[0]!r} ({endings[near[0]]} layers)?"
            if near
            else f"There are {', '.join(sorted(endings))}."
        )
        raise ModelError(
            f"adapter.target_modules: {target!r} matches no linear layer of this "
            f"{type(model).__name__}. {hint}"
        )

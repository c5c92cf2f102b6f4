"""What each arm trains: the user's recipe with another adapter, and nothing else changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from peft import get_peft_model
from peft.tuners.lora import LoraLayer

from doratune.base import empty_model
from doratune.recipe import Recipe
from doratune.recipe.comparison import TrainedArm
from doratune.recipe.evaluation import BenchmarksSection, CompletionsSection
from doratune.recipe.export import ExportSection
from doratune.recipe.schema import AdapterSection, MergeSection
from doratune.train.build import check_targets, lora_config


class RankedLayer(NamedTuple):
    """One layer as PEFT adapts it."""

    name: str
    in_features: int
    out_features: int
    r: int
    lora_alpha: float


def arm_recipe(recipe: Recipe, arm: TrainedArm, base_path: Path) -> Recipe:
    """The recipe of an arm, of which learning rate, seed and steps are still the user's own.

    Raises:
        ModelError: A target module matches no layer of the base.
    """
    adapter, model = recipe.adapter, recipe.model
    if arm == "full":
        model = model.model_copy(update={"quantize": None})
        adapter = adapter.model_copy(update={"method": "full"})
    elif arm == "lora-budget":
        adapter = _at_budget(adapter, base_path)
    elif arm == "dora-half-rank":
        adapter = _at_half_rank(adapter)
    else:
        method = "dora" if arm.endswith("dora") else "lora"
        adapter = adapter.model_copy(update={"method": method})
        if arm == "rslora":
            adapter = adapter.model_copy(update={"use_rslora": True})
        if arm in ("qlora", "qdora"):
            model = model.model_copy(update={"quantize": "nf4"})
    review = recipe.data.gates.review.model_copy(update={"action": "off"})
    gates = recipe.data.gates.model_copy(update={"review": review})
    return recipe.model_copy(
        update={
            "model": model,
            "adapter": adapter,
            # The comparison itself has seen to the review, and a job folder holds no sample.
            "data": recipe.data.model_copy(update={"gates": gates}),
            "eval": recipe.eval.model_copy(
                update={
                    "every_epoch": False,
                    "benchmarks": BenchmarksSection(),
                    "completions": CompletionsSection(num_prompts=0),
                }
            ),
            # What the recipe's own method may merge and export, another's may not; no arm does.
            "merge": MergeSection(),
            "export": ExportSection(),
        }
    )


def learning_rates(recipe: Recipe, arm: TrainedArm) -> list[float]:
    """The rates that an arm tries, lowest first."""
    own = recipe.train.learning_rate
    around = [float(f"{own * factor:.2g}") for factor in (1 / 3, 1, 3)]
    rates = recipe.compare.learning_rates or around
    scale = 0.1 if arm == "full" else 1.0
    # Twelve digits: a tenth of 3e-4 is 3e-05, and not 2.9999999999999997e-05.
    return sorted({float(f"{rate * scale:.12g}") for rate in rates})


def rate_name(rate: float) -> str:
    """A learning rate in the name of a job, such as ``lr-5e-04``."""
    digits = np.format_float_scientific(rate, trim="-", exp_digits=2)
    return f"lr-{digits.replace('+', '')}"


def _at_half_rank(adapter: AdapterSection) -> AdapterSection:
    """DoRA at half the rank with the same scaling, as in the rows marked with a dagger in the paper."""
    r = max(1, adapter.r // 2)
    alpha = adapter.lora_alpha * (r / adapter.r) ** _exponent(adapter)
    return adapter.model_copy(update={"method": "dora", "r": r, "lora_alpha": alpha})


def _at_budget(adapter: AdapterSection, base_path: Path) -> AdapterSection:
    """LoRA with as many trainable parameters as DoRA, as nearly as ranks allow.

    DoRA adds one number per output feature, less than one rank. So some layers get one rank more: going
    from the first layer to the last, wherever the numbers owed so far are nearer to that rank than to
    none. What is left is at most half a layer's rank, and the larger ranks lie evenly over the depth.
    Their ``lora_alpha`` grows with them, so that the scaling is that of the other layers.
    """
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    owed = 0
    for layer in _ranked_layers(adapter, base_path):
        r, alpha = layer.r, layer.lora_alpha
        owed += layer.out_features
        one_rank = layer.in_features + layer.out_features
        if 2 * owed >= one_rank:
            owed -= one_rank
            r, alpha = r + 1, alpha * ((r + 1) / r) ** _exponent(adapter)
        if r != adapter.r:
            ranks[layer.name] = r
        if alpha != adapter.lora_alpha:
            alphas[layer.name] = alpha
    return adapter.model_copy(
        update={"method": "lora", "rank_pattern": ranks, "alpha_pattern": alphas}
    )


def _exponent(adapter: AdapterSection) -> float:
    """``lora_alpha`` must grow with this power of the rank for the scaling to stay what it is."""
    return 0.5 if adapter.use_rslora else 1.0


def _ranked_layers(adapter: AdapterSection, base_path: Path) -> Iterator[RankedLayer]:
    model = empty_model(base_path)
    check_targets(model, adapter)
    with torch.device("meta"):
        adapted = get_peft_model(model, lora_config(adapter.model_copy(update={"method": "lora"})))
    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            yield RankedLayer(
                name.removeprefix("base_model.model."),
                module.in_features,
                module.out_features,
                module.r["default"],
                module.lora_alpha["default"],
            )

"""The form `lora`: a folder that any engine for LoRA loads, and what that costs."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from doratune.adapter import load_adapter
from doratune.adapter.config import CONFIG
from doratune.adapter.files import WEIGHTS
from doratune.adapter.tuned import load_tuned
from doratune.base import load_base
from doratune.record.export import Approximation, LogitCheck, TaskCost
from doratune.record.files import write_text
from doratune.ship.export.ask import ask_form, task_sentence
from doratune.ship.export.lora_svd import write_lora
from doratune.ship.export.model_card import CARD
from doratune.ship.export.peft import change_config, copy_adapter, renew_origin
from doratune.ship.export.subject import Subject, Written, serving_quantize
from doratune.ship.merging.onto import plan_onto
from doratune.ship.stage import golden_inputs
from doratune.ship.verification.compare_logits import compare_logits

if TYPE_CHECKING:
    from peft import PeftModel


def write_approximation(subject: Subject, folder: Path) -> Written:
    """Writes the DoRA adapter as LoRA of the recipe's ``export.lora_rank``, and measures the loss.

    Measured are every layer's error, the logits on golden inputs against the sidecar, and where
    `Subject.task` is there the right answers on the test split.

    Raises:
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base cannot be loaded, or is quantised.
    """
    recipe, adapter = subject.recipe, subject.run.adapter
    rank = recipe.export.lora_rank or 2 * recipe.adapter.r
    plan = plan_onto(subject.base_path, adapter, subject.onto)
    copy_adapter(subject, folder)
    change_config(
        folder,
        use_dora=False,
        use_rslora=False,
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        rank_pattern={},
        alpha_pattern={},
    )
    approximation = write_lora(plan, adapter, folder / WEIGHTS, rank)
    # As in the bundle: safetensors takes away what others may read.
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)
    quantize = serving_quantize(subject)
    renew_origin(subject, folder, method="lora", figures={}, quantize=quantize)
    write_text(folder / "approximation.json", approximation.model_dump_json(indent=2) + "\n")
    logits, tasks = _cost(subject, folder)
    findings = describe(approximation, logits, tasks)
    return Written({CARD: findings}, approximation=approximation, logits=(logits,), tasks=tasks)


def _cost(subject: Subject, folder: Path) -> tuple[LogitCheck, tuple[TaskCost, ...]]:
    prompts = golden_inputs(subject.run, subject.recipe, subject.base_path)
    adapter = subject.run.adapter
    sidecar = load_tuned(subject.base_path, adapter, "float32")
    approximate = _load(subject, folder, "float32")
    figures = compare_logits(sidecar, approximate, prompts)
    check = LogitCheck(what="PEFT, float32", against="sidecar", **figures._asdict())
    del sidecar, approximate
    gc.collect()
    dtype = subject.recipe.model.dtype
    return check, ask_form(subject, "plain LoRA", lambda: _load(subject, folder, dtype))


def _load(subject: Subject, folder: Path, dtype: str) -> PeftModel:
    return load_adapter(load_base(subject.base_path, dtype, serving_quantize(subject)), folder)


def describe(
    approximation: Approximation, logits: LogitCheck, tasks: Sequence[TaskCost]
) -> list[str]:
    """The findings in sentences."""
    worst = max(approximation.layers, key=lambda layer: layer.delta_error)
    plain = approximation.without_magnitude
    ranks = ", ".join(f"{r.delta_error:.1%} at rank {r.rank}" for r in approximation.ranks)
    sentences = [
        f"At rank {approximation.rank}, {approximation.delta_error:.1%} of the change of the weights is "
        f"missing (Frobenius norm over all layers), which is {approximation.weight_error:.2%} of the "
        "weights. Leaving the magnitude out, as converters do that take A and B as they are, would "
        f"miss {plain.delta_error:.1%}.",
        f"The furthest layer is {worst.layer}: {worst.delta_error:.1%} of its change is missing.",
        f"By rank: {ranks}. DoRA scales whole rows of a weight, which no LoRA of limited rank does.",
        f"On {logits.num_tokens:,} positions of golden inputs: mean KL {logits.mean_kl:.2e} nats, the "
        f"same most likely token at {logits.top1_agreement:.2%}.",
    ]
    if not tasks:
        return [*sentences, "Right answers on the test split were not counted for this form."]
    return [*sentences, *map(task_sentence, tasks)]

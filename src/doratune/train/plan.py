"""What training will do and take, said before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from doratune.base import empty_model, load_tokenizer, resolve_base
from doratune.base.load import natural_dtype
from doratune.data import Renderer, read_examples
from doratune.data.render import IGNORED
from doratune.errors import ConfigError
from doratune.recipe import Recipe
from doratune.recipe.schema import TrainSection
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile
from doratune.train.build import base_dtype, check_targets, lora_config
from doratune.train.memory import peak_bytes


@dataclass(frozen=True)
class TrainPlan:
    """The arithmetic of a training run."""

    num_examples: int
    num_tokens: int
    """Tokens of one epoch."""
    num_steps: int
    """Optimizer steps."""
    num_trainable: int
    num_parameters: int
    memory_bytes: int
    """Estimate of the peak."""

    def __str__(self) -> str:
        share = self.num_trainable / self.num_parameters
        return (
            f"{self.num_steps} optimizer steps over {self.num_examples:,} examples "
            f"({self.num_tokens:,} tokens an epoch); {self.num_trainable:,} of "
            f"{self.num_parameters:,} parameters trainable ({share:.2%}); "
            f"about {self.memory_bytes / 2**30:.1f} GiB of memory"
        )


def check_trainable(data: DataFile) -> None:
    """Refuses data that training would misunderstand.

    Raises:
        ConfigError: It is preference data.
    """
    if data.format == "preference":
        pairs = data.splits["train"].num_examples
        raise ConfigError(
            f"The data is preference data, {pairs:,} pairs of a chosen and a rejected answer, and "
            "training on preferences is not there yet. To train on the chosen answers alone, "
            "rename the column 'chosen' to 'completion' ('messages' where there is no prompt "
            "column) and remove 'rejected'."
        )


def num_steps(section: TrainSection, num_examples: int) -> int:
    """Optimizer steps of a run, counted as transformers' Trainer counts them."""
    if section.max_steps is not None:
        return section.max_steps
    batches = math.ceil(num_examples / section.batch_size)
    return math.ceil(section.epochs * math.ceil(batches / section.gradient_accumulation_steps))


def plan_training(
    model: PreTrainedModel | PeftModel,
    recipe: Recipe,
    lengths: Sequence[int],
    longest_answer: int,
    longest: int | None = None,
) -> TrainPlan:
    """Counts steps, tokens, parameters and bytes.

    Args:
        model: The model to train; may be on the meta device.
        recipe: Says how it is trained.
        lengths: Tokens of each training example.
        longest_answer: Tokens that the example with most of them is trained on.
        longest: Tokens of the longest example, where ``lengths`` does not tell.
    """
    parameters = list(model.parameters())
    together = min(recipe.train.batch_size, len(lengths))
    return TrainPlan(
        num_examples=len(lengths),
        num_tokens=sum(lengths),
        num_steps=num_steps(recipe.train, len(lengths)),
        num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
        num_parameters=sum(map(_num_elements, parameters)),
        # A batch is padded to its longest example.
        memory_bytes=peak_bytes(
            model, recipe, together * (longest or max(lengths)), together * longest_answer
        ),
    )


def _num_elements(parameter: Tensor) -> int:
    """Elements of a weight, also where several of them are packed into one."""
    quantised = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantised is None else math.prod(quantised.shape)


def plan_recipe(run: RunFolder, recipe: Recipe) -> TrainPlan:
    """The plan for a run folder whose data stage is done, without loading any weights.

    Raises:
        ModelError: A target module matches nothing.
        ConfigError: The data is of a kind that cannot be trained on.
    """
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    check_trainable(DataFile.read(run.data))
    renderer = Renderer(load_tokenizer(base_path), recipe.data.template)
    rendered = renderer.examples([(e.messages, e.tools) for e in read_examples(run, "train")])
    return plan_training(
        empty_training_model(recipe, base_path),
        recipe,
        [len(example.input_ids) for example in rendered],
        max(num_learned(example.labels) for example in rendered),
    )


def empty_training_model(recipe: Recipe, base_path: Path) -> PreTrainedModel | PeftModel:
    """What `build_model` makes, without any weights.

    Raises:
        ModelError: A target module matches nothing.
    """
    dtype = base_dtype(recipe)
    named = natural_dtype(base_path) if dtype == "auto" else dtype
    model = empty_model(base_path).to(getattr(torch, named))
    if recipe.adapter.method == "full":
        return model.requires_grad_(True)
    check_targets(model, recipe.adapter)
    with torch.device("meta"):
        return get_peft_model(model, lora_config(recipe.adapter))


def num_learned(labels: Sequence[int]) -> int:
    """Tokens of an example that are trained on."""
    return sum(label != IGNORED for label in labels)

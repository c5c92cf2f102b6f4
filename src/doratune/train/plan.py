"""What training will do and take, said before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from doratune.base import empty_model, load_tokenizer, resolve_base
from doratune.data import Renderer, read_examples
from doratune.errors import ConfigError
from doratune.recipe import Recipe
from doratune.recipe.schema import TrainSection
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile
from doratune.train.build import check_targets, lora_config

PROCESS_BYTES = 700 << 20
"""Python with torch, transformers and TRL, before any weight is there."""


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
    """Estimate of the peak: weights, gradients, optimizer state, activations of one batch."""

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
    section: TrainSection,
    lengths: list[int],
    peak_tokens: int | None = None,
) -> TrainPlan:
    """Counts steps, tokens, parameters and bytes.

    Args:
        model: The model to train; may be on the meta device.
        section: The recipe's train section.
        lengths: Tokens of each training example.
        peak_tokens: Tokens of the largest batch; ``batch_size`` times the longest when None.
    """
    parameters = list(model.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    num_trainable = sum(p.numel() for p in trainable)
    # Gradient in the parameter's precision, two float32 moments.
    state = sum(p.numel() * (p.element_size() + 8) for p in trainable)
    weights = sum(p.numel() * p.element_size() for p in parameters)
    tokens = peak_tokens or section.batch_size * max(lengths)
    return TrainPlan(
        num_examples=len(lengths),
        num_tokens=sum(lengths),
        num_steps=num_steps(section, len(lengths)),
        num_trainable=num_trainable,
        num_parameters=sum(map(_num_elements, parameters)),
        memory_bytes=PROCESS_BYTES + weights + state + tokens * _activation_bytes(model, section),
    )


def _num_elements(parameter: Tensor) -> int:
    """Elements of a weight, also where several of them are packed into one."""
    quantised = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantised is None else math.prod(quantised.shape)


def _activation_bytes(model: PreTrainedModel | PeftModel, section: TrainSection) -> int:
    """Bytes kept for the backward pass per token, inputs and outputs of every linear layer above all.

    The factors are fitted to SmolLM2-135M with adapters on all linear layers: 2.2 GiB measured for
    batches of 380 tokens and 3.9 GiB for 1,024, in all. With gradient checkpointing one block's
    worth is kept, plus the input of every block.
    """
    config = model.config.get_text_config()
    layers, hidden = config.num_hidden_layers, config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    block = 16 * hidden + 7 * inner
    kept = block + layers * hidden if section.gradient_checkpointing else layers * block
    return kept * next(model.parameters()).element_size()


def plan_recipe(run: RunFolder, recipe: Recipe) -> TrainPlan:
    """The plan for a run folder whose data stage is done, without loading any weights.

    Raises:
        ModelError: A target module matches nothing.
        ConfigError: The data is of a kind that cannot be trained on.
    """
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    check_trainable(DataFile.read(run.data))
    renderer = Renderer(load_tokenizer(base_path), recipe.data.template)
    lengths = renderer.lengths([(e.messages, e.tools) for e in read_examples(run, "train")])
    model: PreTrainedModel | PeftModel = empty_model(base_path)
    if recipe.adapter.method != "full":
        check_targets(model, recipe.adapter)
        with torch.device("meta"):
            model = get_peft_model(model, lora_config(recipe.adapter))
    return plan_training(model, recipe.train, lengths)

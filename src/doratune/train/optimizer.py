"""AdamW with the magnitudes in a group of their own, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from doratune.recipe.schema import TrainSection


def build_optimizer(
    model: nn.Module, section: TrainSection, num_steps: int
) -> tuple[AdamW, LambdaLR]:
    """The optimizer over all trainable parameters, and its schedule over ``num_steps``.

    Weight decay is for matrices only. Magnitudes are never decayed: decay would pull every output
    feature towards silence.

    Returns:
        The optimizer, whose first group is the matrices, and the scheduler.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    magnitudes: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "lora_magnitude_vector" in name:
            if parameter.dtype != torch.float32:
                raise TypeError(f"{name} is {parameter.dtype}; magnitudes are float32")
            magnitudes.append(parameter)
        else:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
    lr = section.learning_rate
    magnitude_lr = (
        lr if section.magnitude_learning_rate is None else section.magnitude_learning_rate
    )
    shape = schedule(section, num_steps)
    rise = max(1, math.ceil(section.magnitude_warmup_share * num_steps))

    def magnitude_shape(step: int) -> float:
        return (
            shape(step) * min(1.0, step / rise) if section.magnitude_warmup_share else shape(step)
        )

    groups = [
        (matrices, lr, section.weight_decay, shape),
        (vectors, lr, 0.0, shape),
        (magnitudes, magnitude_lr, 0.0, magnitude_shape),
    ]
    groups = [group for group in groups if group[0]]
    optimizer = AdamW(
        [{"params": p, "lr": rate, "weight_decay": decay} for p, rate, decay, _ in groups],
        fused=True,
    )
    return optimizer, LambdaLR(optimizer, [group[3] for group in groups])


def schedule(section: TrainSection, num_steps: int) -> Callable[[int], float]:
    """Share of the learning rate at each step: linear rise, then the recipe's scheduler."""
    warmup = math.ceil(section.warmup_share * num_steps)

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        done = (step - warmup) / max(1, num_steps - warmup)
        if section.scheduler == "constant":
            return 1.0
        if section.scheduler == "linear":
            return max(0.0, 1 - done)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))

    return share

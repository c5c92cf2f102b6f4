"""The training run of ``training.py`` under DeepSpeed's ZeRO."""

from __future__ import annotations

import os

import deepspeed
import torch
import torch.distributed as dist
from peft import get_peft_model_state_dict
from torch import nn

from tests.distributed.training import (
    ACCUMULATION,
    EPSILON,
    LEARNING_RATE,
    SEQUENCES,
    STEPS,
    Trained,
    micro_batches,
    model_to_train,
    next_token_loss,
)

# Otherwise every first run builds a shared-memory op in C++, and a build that is killed leaves a lock
# behind which all later runs wait for ever (DeepSpeed 0.19.8). Without it gloo does the work.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def with_zero(stage: int, *, checkpointing: bool = False) -> Trained:
    """Every parameter partitioned, however small (stage 3), trained with DeepSpeed's engine."""
    os.environ |= {"LOCAL_RANK": str(dist.get_rank()), "DS_ACCELERATOR": "cpu"}
    model = model_to_train(fast=True)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in model.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(trained, lr=LEARNING_RATE, eps=EPSILON),
        config={
            "train_micro_batch_size_per_gpu": SEQUENCES // dist.get_world_size(),
            "gradient_accumulation_steps": ACCUMULATION,
            "zero_optimization": {
                "stage": stage,
                "stage3_param_persistence_threshold": 0,
                "stage3_model_persistence_threshold": 0,
            },
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    losses = torch.zeros(STEPS, dtype=torch.float64)
    for step in range(STEPS):
        for ids in micro_batches(step):
            loss = next_token_loss(engine, ids)
            engine.backward(loss)
            engine.step()
            losses[step] += loss.detach() / ACCUMULATION
    dist.all_reduce(losses)
    return Trained(losses / dist.get_world_size(), _adapter(model))


def _adapter(model: nn.Module) -> dict[str, torch.Tensor]:
    trained = [p for p in model.parameters() if p.requires_grad]
    with deepspeed.zero.GatheredParameters([p for p in trained if hasattr(p, "ds_id")]):
        found = get_peft_model_state_dict(
            model, state_dict={n: p for n, p in model.named_parameters() if p.requires_grad}
        )
        return {name: parameter.detach().clone() for name, parameter in found.items()}

"""One training run, on one process or shared by several: the same data, model and optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from doratune import enable_fast_dora
from tests.accuracy import assert_as_accurate
from tests.adapter.models import llama_with_bias, with_dora

STEPS, ACCUMULATION, SEQUENCES, LENGTH = 4, 2, 4, 11
LEARNING_RATE = 1e-2
"""Large: after four steps the norms have moved by several percent, so that a stale one shows."""
EPSILON = 1e-3
"""AdamW's. With the usual 1e-8 a gradient that is nothing but rounding moves its weight by a full step,
and two right runs in float32 differ by 3e-4."""


class Trained(NamedTuple):
    """What a run leaves."""

    losses: Tensor
    """Of every step, over the whole batch, (STEPS,), float64."""
    adapter: dict[str, Tensor]
    """As `peft.get_peft_model_state_dict` gives it."""


def model_to_train(*, fast: bool, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A Llama with biases and a DoRA adapter off its start, the same in every process."""
    model = with_dora(llama_with_bias(), trained=True).to(dtype).train()
    add_rare_rows(model)
    if fast:
        enable_fast_dora(model)
    return model


@torch.no_grad()
def add_rare_rows(model: nn.Module) -> None:
    """Two rows in every layer for which the fast path reads W itself, which here is in parts."""
    for module in adapted_linears(model):
        W, A = module.get_base_layer().weight, module.lora_A["default"].weight
        B, m = module.lora_B["default"].weight, module.lora_magnitude_vector["default"].weight
        update = module.scaling["default"] * B[0] @ A
        W[0] = -0.9 * update  # W and the update nearly cancel: the norm is taken from their sum
        m[0] = 0.1 * update.norm()
        m[1] = (
            1e-3 * W[1].norm()
        )  # m / n is tiny: the output has lost the digits m's gradient needs


def micro_batches(step: int) -> Iterator[Tensor]:
    """This process's share of the step's token ids, one micro-batch after another."""
    draw = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(0, 400, (ACCUMULATION, SEQUENCES, LENGTH), generator=draw)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for batch in ids:
        yield batch.chunk(world)[rank]


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """In the precision of the logits; transformers' own loss is float32 even for a float64 model."""
    logits = model(input_ids=ids).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def train(
    model: nn.Module,
    sync_only: Callable[[bool], Any] = lambda last: nullcontext(),
    parameters: nn.Module | None = None,
) -> Tensor:
    """Trains in place with AdamW.

    Args:
        model: Called with token ids.
        sync_only: Given whether the micro-batch is the step's last, a context for its passes.
        parameters: Where the trained parameters are, where not in ``model``.

    Returns:
        The losses of the steps, averaged over processes, (STEPS,).
    """
    trained = [p for p in (parameters or model).parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, eps=EPSILON)
    losses = torch.zeros(STEPS, dtype=torch.float64)
    for step in range(STEPS):
        for index, ids in enumerate(micro_batches(step)):
            with sync_only(index == ACCUMULATION - 1):
                loss = next_token_loss(model, ids) / ACCUMULATION
                loss.backward()
            losses[step] += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
    if dist.is_initialized():
        dist.all_reduce(losses)
        losses /= dist.get_world_size()
    return losses


def alone(*, fast: bool, dtype: torch.dtype = torch.float32) -> Trained:
    """The same training in one process, on the whole batch."""
    model = model_to_train(fast=fast, dtype=dtype)
    return Trained(train(model), get_peft_model_state_dict(model))


def with_ddp() -> Trained:
    model = model_to_train(fast=True)
    parallel = DistributedDataParallel(model)
    losses = train(parallel, lambda last: nullcontext() if last else parallel.no_sync())
    return Trained(losses, get_peft_model_state_dict(model))


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    return list(model.get_base_model().model.layers)


def adapted_linears(model: nn.Module) -> list[nn.Module]:
    """Each holds a base layer, its factors and its magnitude."""
    return [module for module in model.modules() if hasattr(module, "lora_variant")]


def trained_leaves(model: nn.Module) -> list[nn.Module]:
    """What PEFT's own policy for sharding gives units of their own: each factor, each magnitude."""
    return [
        module
        for module in model.modules()
        if not list(module.children()) and any(p.requires_grad for p in module.parameters())
    ]


def base_layers(model: nn.Module) -> list[nn.Module]:
    return [module.get_base_layer() for module in adapted_linears(model)]


def with_fsdp(
    *units: Callable[[nn.Module], list[nn.Module]],
    checkpointing: bool = False,
    save_to: Path | None = None,
) -> Trained:
    """FSDP2 with one sharded unit for every module that ``units`` name, and one for the rest."""
    model = model_to_train(fast=True)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for modules in units:
        for module in modules(model):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)

    def sync_only(last: bool) -> Any:
        model.set_requires_gradient_sync(last)
        return nullcontext()

    losses = train(model, sync_only)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state = get_model_state_dict(model, options=options)
    if save_to is not None and dist.get_rank() == 0:
        model.save_pretrained(save_to, state_dict=state)
    adapter = get_peft_model_state_dict(model, state_dict=state) if dist.get_rank() == 0 else {}
    return Trained(losses, adapter)


def assert_same_training(found: Trained, plain: Trained, exact: Trained) -> None:
    assert_as_accurate("losses", found.losses, plain.losses, exact.losses, torch.float32)
    assert found.adapter.keys() == exact.adapter.keys()
    for name, tensor in found.adapter.items():
        assert_as_accurate(name, tensor, plain.adapter[name], exact.adapter[name], torch.float32)

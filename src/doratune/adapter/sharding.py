"""Weights of which every process keeps a part: FSDP2's and ZeRO-3's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule


def whole_weight(module: nn.Module) -> Tensor:
    """The ``weight`` of a module, put together where FSDP2 shards the module as a unit of its own.

    PEFT's ``fsdp_auto_wrap_policy`` does that with every factor and magnitude. Such a unit is whole
    within its own forward only, which the fast path does not call.
    """
    weight = _whole(module, "weight")
    assert weight is not None
    return weight


def whole_bias(module: nn.Module) -> Tensor | None:
    """The ``bias`` of a module, likewise; None if it has none."""
    return _whole(module, "bias")


def is_sharded(module: nn.Module) -> bool:
    """Whether this process has a part of the weight only, so that using it makes all processes meet."""
    weight = getattr(module, "weight", None)
    return hasattr(weight, "ds_id") or hasattr(weight, "device_mesh")


def _whole(module: nn.Module, name: str) -> Tensor | None:
    parameters = module._parameters
    if name not in parameters:
        return getattr(module, name, None)
    # `getattr` of a module takes 0.5 µs, five times as long, and a forward asks for four of them.
    parameter = parameters[name]
    if parameter is None or not isinstance(module, FSDPModule):
        return parameter
    # The clone outlives the unit's memory, which is freed at once. Its gradient finds the parameter, and
    # FSDP2 reduces it at the end of backward.
    module.unshard()
    whole: Tensor = getattr(module, name).clone()
    module.reshard()
    return whole

"""The norm of a layer's adapted weight: the base is read once, the rest computed once a step."""

from __future__ import annotations

from dataclasses import replace

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from doratune.adapter.base_weight import base_weight
from doratune.adapter.reuse import Reused
from doratune.adapter.sharding import is_sharded
from doratune.ops import BaseWeight, weight_norm


class AdaptedNorm:
    """``‖W + scaling B A‖`` of one layer and adapter, computed once for every optimizer step."""

    def __init__(self) -> None:
        self._base: BaseWeight | None = None
        self._norm: Reused[Tensor] = Reused()

    def base(self, module: LoraLayer) -> BaseWeight:
        """The base weight of PEFT's layer, read at the first call."""
        if self._base is None:
            self._base = base_weight(module.get_base_layer())
        return self._base

    def of(
        self, module: LoraLayer, A: Tensor, B: Tensor, scaling: float, W: Tensor | None = None
    ) -> Tensor:
        """The norm, (O,), float32.

        Args:
            module: PEFT's layer.
            A: (R, I).
            B: (O, R).
            scaling: Factor of the update.
            W: The base weight where it can be had as a tensor.
        """

        def make() -> Tensor:
            base = self.base(module)
            if base.norm_squared_O.device != A.device:
                self._base = base = replace(base, norm_squared_O=base.norm_squared_O.to(A.device))
            return weight_norm(base, A, B, scaling, W)

        # With a sharded base all processes meet in `make`. What is reused depends on addresses of
        # memory, which differ: some would wait for ever for those that reuse.
        if torch.compiler.is_compiling() or (W is None and is_sharded(module.get_base_layer())):
            return make()
        return self._norm.get([A, B], scaling, module.training, make)

    def forget(self) -> None:
        """Reads the base anew at the next call: it has been changed."""
        self._base = None
        self._norm = Reused()

"""Values derived from trained parameters, kept for as long as those parameters stay the same.

A norm that outlives its A and B is a silent error, and nothing tells reliably that a tensor has changed:
``Tensor._version`` stands still under fused, 8-bit and paged optimizers and under ``.data``. So a
value is reused

* on a CPU, if the contents of the parameters are equal to a copy (2 µs for 16 x 1536);
* elsewhere, where comparing would stall the device, if no optimizer has stepped (a hook on all of them
  counts), the parameters are the same tensors with the same version, and the layer is in training or
  evaluation as before; in training moreover only once some optimizer has stepped, so that a loop that
  updates through ``.data`` by hand, unseen by the hook, meets no old value.

One gap is left on a GPU: contents changed through ``.data``, such as an average of weights swapped in
for evaluation, with neither a step nor a switch of ``train()`` and ``eval()`` in between. Who does that
calls `enable_fast_dora` again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

Value = TypeVar("Value")

_steps_taken = 0


def _count_step(*_: object) -> None:
    global _steps_taken
    _steps_taken += 1


register_optimizer_step_post_hook(_count_step)


class Reused(Generic[Value]):
    """One value and what it was made from. Copies and pickles of it are empty."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._contents: list[Tensor] = []
        self._value: Value | None = None

    def get(
        self,
        parameters: list[Tensor],
        settings: Hashable,
        training: bool,
        make: Callable[[], Value],
    ) -> Value:
        """The kept value if it still holds, otherwise ``make()``, which is then kept.

        Args:
            parameters: What the value is made from and an optimizer may change.
            settings: Everything else that it depends on.
            training: Whether the layer is being trained.
            make: Computes it.
        """
        on_cpu = all(p.device.type == "cpu" for p in parameters)
        key: tuple[Hashable, ...] = (settings, torch.is_inference_mode_enabled())
        if not on_cpu:
            versions = (
                (p.data_ptr(), p.shape, p.dtype, None if p.is_inference() else p._version)
                for p in parameters
            )
            key = (*key, _steps_taken, training, *versions)
        holds = self._value is not None and key == self._key
        if on_cpu:
            holds = (
                holds and len(self._contents) > 0 and all(map(_equal, parameters, self._contents))
            )
        elif training:
            holds = holds and _steps_taken > 0
        if holds:
            assert self._value is not None
            return self._value
        self._value = make()
        self._key = key
        self._keep_contents(parameters if on_cpu else [])
        return self._value

    @torch.inference_mode(False)
    @torch.no_grad()
    def _keep_contents(self, parameters: list[Tensor]) -> None:
        if [(p.shape, p.dtype) for p in parameters] == [(c.shape, c.dtype) for c in self._contents]:
            for kept, parameter in zip(self._contents, parameters, strict=True):
                kept.copy_(parameter)
        else:
            self._contents = [p.clone() for p in parameters]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Reused, ())


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)

"""Values derived from trained parameters, kept for as long as those parameters stay the same.

A norm that outlives its A and B is a silent error, and nothing tells reliably that a tensor has changed:
``Tensor._version`` stands still under fused, 8-bit and paged optimizers and under ``.data``. So a
value is reused

* on a CPU, if the contents of the parameters are equal to a copy, bit for bit (2 µs for 16 x 1536, where
  `torch.equal`, which is not vectorised, takes 16);
* elsewhere, where comparing would stall the device, if no optimizer has stepped (a hook on all of them
  counts), the parameters are the same tensors with the same version, and the layer is in training or
  evaluation as before; in training moreover only once some optimizer has stepped, so that a loop that
  updates through ``.data`` by hand, unseen by the hook, meets no old value.

One gap is left on a GPU: contents changed through ``.data``, such as an average of weights swapped in
for evaluation, with neither a step nor a switch of ``train()`` and ``eval()`` in between. Who does that
calls `enable_fast_dora` again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

Value = TypeVar("Value")

_compare_bytes = ctypes.CDLL(None).memcmp
_compare_bytes.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

_steps_taken = 0


def _count_step(*_: object) -> None:
    global _steps_taken
    _steps_taken += 1


register_optimizer_step_post_hook(_count_step)


class Reused(Generic[Value]):
    """One value and what it was made from. Copies and pickles of it are empty."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._contents: list[_Contents] = []
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
        on_cpu = all(p.is_cpu for p in parameters)
        key: tuple[Hashable, ...] = (settings, torch.is_inference_mode_enabled())
        if not on_cpu:
            versions = (
                (p.data_ptr(), p.shape, p.dtype, None if p.is_inference() else p._version)
                for p in parameters
            )
            key = (*key, _steps_taken, training, *versions)
        holds = self._value is not None and key == self._key
        if on_cpu:
            holds = holds and len(self._contents) > 0
            holds = holds and all(map(_Contents.are_in, self._contents, parameters))
        elif training:
            holds = holds and _steps_taken > 0
        if holds:
            assert self._value is not None
            return self._value
        self._value = make()
        self._key = key
        self._contents = [_Contents(p) for p in parameters] if on_cpu else []
        return self._value

    def __reduce__(self) -> tuple[Any, ...]:
        return (Reused, ())


class _Contents:
    """A copy of a parameter on the CPU, and what tells fast whether the parameter still equals it."""

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, parameter: Tensor) -> None:
        self.copy = parameter.clone(memory_format=torch.contiguous_format)
        self.shape, self.dtype, self.nbytes = self.copy.shape, self.copy.dtype, self.copy.nbytes
        self.address = self.copy.data_ptr() if type(parameter) in _PLAIN else 0

    def are_in(self, parameter: Tensor) -> bool:
        """Bit for bit, where the parameter is a tensor with memory of its own."""
        if parameter.dtype is not self.dtype or parameter.shape != self.shape:
            return False
        if not self.address or type(parameter) not in _PLAIN or not parameter.is_contiguous():
            return torch.equal(parameter, self.copy)
        return _compare_bytes(parameter.data_ptr(), self.address, self.nbytes) == 0


_PLAIN = (Tensor, nn.Parameter)

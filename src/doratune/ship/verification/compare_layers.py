"""Two models layer by layer: every layer is given what the reference gives its own.

So each layer answers for itself. Were the two models run side by side, everything after a wrong layer
would look wrong as well.

``output_error`` is ``‖y' - y‖ / ‖y‖`` over all positions of all prompts, Frobenius norms. Rounding a
weight to a unit roundoff u moves it by 0.4 u in the root mean square, and the output by about as much,
for the errors of a row are independent; rounding input and output adds two more of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from doratune.errors import ModelError
from doratune.ship.verification.roundoff import roundoff_of

_ARITHMETIC = 128 * 2.0**-24


@dataclass(frozen=True)
class LayerOutput:
    """One layer of the other model on the inputs of the reference's."""

    layer: str
    """Module path in the base model."""
    output_error: float
    """``‖y' - y‖ / ‖y‖`` over all positions."""
    limit: float
    """What rounding explains."""

    @property
    def departs(self) -> bool:
        """Whether the layer is another one; also where its output is not finite."""
        return not self.output_error <= self.limit


def output_limit(roundoff: float) -> float:
    """Largest ``output_error`` of the same layer, computed or held with this unit roundoff."""
    return 2 * roundoff + _ARITHMETIC


class Watch:
    """Compares layers while the reference runs, one after the other; keeps two numbers a layer.

    Args:
        reference: Its layers decide what is fed.
        other: Has layers of the same names.
        dtype: Precision to which the other's weights were rounded, where that is coarser than the one
            that they are held in now.
    """

    def __init__(
        self, reference: nn.Module, other: nn.Module, dtype: torch.dtype | None = None
    ) -> None:
        self.roundoff = roundoff_of(dtype) if dtype else 0.0
        """The coarsest met, on either side."""
        self._found: dict[str, tuple[float, float, float]] = {}
        ours, theirs = layers_of(reference), layers_of(other)
        self.unmatched = sorted(ours.keys() ^ theirs.keys())
        self._pairs = [(name, ours[name], theirs[name]) for name in ours if name in theirs]
        self._rounded = self.roundoff

    @property
    def num_pairs(self) -> int:
        """Layers that both models have."""
        return len(self._pairs)

    @property
    def shared(self) -> bool:
        """Whether any layer is the same object in both models."""
        return any(one is other for _, one, other in self._pairs)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this lasts, whatever the reference computes is compared."""
        handles = [
            one.register_forward_hook(self._hook(name, other), with_kwargs=True)
            for name, one, other in self._pairs
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def layers(self) -> list[LayerOutput]:
        """Every layer that was run, in the order of the model."""
        names = [name for name, _, _ in self._pairs if name in self._found]
        return [LayerOutput(name, *_ratio(*self._found[name])) for name in names]

    def _hook(self, name: str, other: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            device, dtype = _home(other)
            moved = [_moved(value, device, dtype) for value in args]
            found = other(*moved, **{k: _moved(v, device, dtype) for k, v in kwargs.items()})
            error, size, roundoff = self._found.get(name, (0.0, 0.0, self._rounded))
            for y, y_other in zip(_tensors(output), _tensors(found), strict=True):
                if y.shape != y_other.shape:
                    raise ModelError(
                        f"Layer {name} gives {tuple(y_other.shape)} in the other model and "
                        f"{tuple(y.shape)} in the reference. They are not of the same architecture."
                    )
                # Not in float64: the logits of a large vocabulary are among these.
                expected = y.to(torch.promote_types(y.dtype, torch.float32))
                difference = y_other.to(expected) - expected
                error += difference.square().sum(dtype=torch.float64).item()
                size += expected.square().sum(dtype=torch.float64).item()
                roundoff = max(roundoff, roundoff_of(y.dtype), roundoff_of(y_other.dtype))
            self._found[name] = (error, size, roundoff)
            self.roundoff = max(self.roundoff, roundoff)

        return hook


def inner_model(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, data-parallel and PEFT wrappers; adapters stay in it."""
    while True:
        if isinstance(model, PeftModel):
            model = model.get_base_model()
        elif isinstance(source := getattr(model, "_orig_mod", None), nn.Module):
            model = source
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def is_compiled(model: nn.Module) -> bool:
    """Whether any part of a model runs through `torch.compile`."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Everything that holds weights itself, by its name in the base model.

    An adapted layer counts as one, with its adapter. Embeddings and norms are among them.
    """
    return dict(_walk(inner_model(model), ""))


def _walk(module: nn.Module, name: str) -> Iterable[tuple[str, nn.Module]]:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if own or isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        yield name, module
        return
    for child_name, child in module.named_children():
        inner = getattr(child, "_orig_mod", child)
        yield from _walk(inner, f"{name}.{child_name}" if name else child_name)


def _home(module: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Where a layer computes, and in what precision it takes its input; None for whatever comes."""
    layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    held: Sequence[Tensor] = [*layer.parameters(), *layer.buffers()]
    dtypes = [tensor.dtype for tensor in held if roundoff_of(tensor.dtype)]
    # The scales of a layer in 4 or 8 bits have a precision of their own.
    plain = len(dtypes) == len(held)
    return held[0].device if held else None, dtypes[0] if plain and dtypes else None


def _moved(value: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else None)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [part for part in output if isinstance(part, Tensor)]


def _ratio(error: float, size: float, roundoff: float) -> tuple[float, float]:
    """Relative error from two sums of squares, and its limit."""
    if size == 0:
        return 0.0 if error == 0 else math.inf, output_limit(roundoff)
    return math.sqrt(error / size), output_limit(roundoff)

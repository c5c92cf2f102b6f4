"""The serving bundle as an engine would serve it: a LoRA layer, and its output times a vector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from doratune.adapter import LayerDelta, read_adapter
from doratune.adapter.base_weight import forbid_repacking
from doratune.adapter.files import PREFIX, WEIGHTS
from doratune.base import fingerprint, load_base
from doratune.errors import AdapterError
from doratune.record.files import digest_file
from doratune.ship.export.bundle import FORMAT, SCALES, SUFFIX

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_bundle(base_path: Path, folder: Path) -> PreTrainedModel:
    """The base with the bundle's A, B and g; its magnitudes are not looked at.

    Raises:
        AdapterError: The bundle is incomplete, names another base or another adapter file, or adapts
            layers that are not linear.
    """
    weights = read_adapter(folder)
    scales, quantize = _read_scales(base_path, folder)
    model = load_base(base_path, "float32", quantize)
    forbid_repacking(model)
    for layer, delta in weights.layers.items():
        module, key = model.get_submodule(layer), f"{PREFIX}{layer}.{SUFFIX}"
        if not isinstance(module, (nn.Linear, Conv1D)):
            raise AdapterError(
                f"{folder} adapts {layer}, a {type(module).__name__}; a bundle is served on linear "
                "layers."
            )
        if key not in scales:
            raise AdapterError(f"{folder / SCALES} lacks {key}. Export the bundle again.")
        module.register_forward_hook(_served(delta, scales[key]))
    for name, tensor in weights.saved_modules.items():
        parent, _, last = name.rpartition(".")
        # A new parameter, so that a weight tied to the old one stays as it is.
        setattr(model.get_submodule(parent), last, nn.Parameter(tensor.float()))
    return model


def _served(delta: LayerDelta, g_O: Tensor) -> Callable[..., Tensor]:
    """``y = g (x W^T + s x A^T B^T) + bias`` from the base layer's own output."""
    A_RI, B_OR = delta.A.float(), delta.B.float()

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        bias: Any = 0 if getattr(module, "bias", None) is None else module.bias
        update = delta.scaling * (args[0] @ A_RI.T) @ B_OR.T
        return g_O * (output - bias + update) + bias

    return hook


def _read_scales(
    base_path: Path, folder: Path
) -> tuple[dict[str, Tensor], Literal["nf4", "int8"] | None]:
    """The scales, and how the base is quantised that they were made for."""
    file = folder / SCALES
    if not file.is_file():
        raise AdapterError(f"{file} is not there. Export the bundle again.")
    with safe_open(file, framework="pt") as tensors:
        told = tensors.metadata() or {}
        scales = {name: tensors.get_tensor(name) for name in sorted(tensors.keys())}
    for key, found, what in (
        ("format", FORMAT, "format"),
        ("base_fingerprint", fingerprint(base_path), "base"),
        ("adapter_sha256", digest_file(folder / WEIGHTS), "adapter file"),
    ):
        if told.get(key) != found:
            raise AdapterError(
                f"{file} was made for the {what} {told.get(key)!r}, and this one is {found!r}. Export "
                "the bundle again."
            )
    return scales, told.get("base_quantize")

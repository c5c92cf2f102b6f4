"""The serving bundle as an engine would serve it: a LoRA layer, and its output times a vector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from doratune.adapter import LayerDelta, read_adapter
from doratune.adapter.base_weight import forbid_repacking
from doratune.adapter.conv import why_not_conv
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
        AdapterError: The bundle is incomplete, names another base or another adapter file, or adapts a
            layer to which ``B A`` is no change of the weight.
    """
    weights = read_adapter(folder)
    scales, quantize = _read_scales(base_path, folder)
    model = load_base(base_path, "float32", quantize)
    forbid_repacking(model)
    for layer, delta in weights.layers.items():
        module, key = model.get_submodule(layer), f"{PREFIX}{layer}.{SUFFIX}"
        why_not = _why_not(module)
        if why_not:
            raise AdapterError(
                f"{folder} adapts {layer}, a {type(module).__name__}, and {why_not}. A bundle is served "
                "on linear layers, embeddings and plain convolutions; keep the adapter beside its base."
            )
        if key not in scales:
            raise AdapterError(f"{folder / SCALES} lacks {key}. Export the bundle again.")
        module.register_forward_hook(_served(delta, scales[key]))
    for name, tensor in weights.saved_modules.items():
        parent, _, last = name.rpartition(".")
        # A new parameter, so that a weight tied to the old one stays as it is.
        setattr(model.get_submodule(parent), last, nn.Parameter(tensor.float()))
    return model


def _why_not(module: nn.Module) -> str | None:
    """Why a layer cannot be served; None when it can."""
    if isinstance(module, (nn.Linear, Conv1D, nn.Embedding)):
        return None
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return why_not_conv(module)
    return "no formula is known for it"


def _served(delta: LayerDelta, g_O: Tensor) -> Callable[..., Tensor]:
    """``y = g (x W^T + s x A^T B^T) + bias`` from the base layer's own output."""
    channels = -1 - len(delta.kernel)  # where the output has its features

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        bias: Any = 0 if getattr(module, "bias", None) is None else module.bias
        y = output.movedim(channels, -1)
        y = g_O * (y - bias + _update(module, delta, args[0])) + bias
        return y.movedim(-1, channels)

    return hook


def _update(module: Any, delta: LayerDelta, x: Tensor) -> Tensor:
    """``s x A^T B^T``, features last; for ``x A^T`` an embedding looks up, a convolution convolves."""
    A_RI, B_OR = delta.A.float(), delta.B.float()
    if delta.is_embedding:
        # Gemma's embeddings multiply what they look up.
        low = F.embedding(x, A_RI.T) * getattr(module, "embed_scale", 1)
    elif delta.kernel:
        convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(delta.kernel)]
        kernels = A_RI.unflatten(1, (-1, *delta.kernel))
        low = convolution(x, kernels, None, module.stride, module.padding)
        low = low.movedim(-1 - len(delta.kernel), -1)
    else:
        low = x @ A_RI.T
    return delta.scaling * low @ B_OR.T


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

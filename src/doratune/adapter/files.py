"""Adapter folders in PEFT's format, read completely or not at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from doratune.adapter.config import read_config
from doratune.adapter.formats import recognise
from doratune.errors import AdapterError

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"
_PARTS = {
    "lora_A.weight": "lora_A",
    "lora_B.weight": "lora_B",
    "lora_embedding_A": "lora_A",
    "lora_embedding_B": "lora_B",
    MAGNITUDE: MAGNITUDE,
    f"{MAGNITUDE}.weight": MAGNITUDE,
}
_DTYPES = ("F32", "F16", "BF16")


class LayerDelta(NamedTuple):
    """What an adapter holds for one layer."""

    A: Tensor
    """``lora_A``, (r, in_features); of a convolution (r, in_channels * kernel)."""
    B: Tensor
    """``lora_B``, (out_features, r)."""
    magnitude: Tensor | None
    """(out_features,), float32; None for LoRA."""
    scaling: float
    fan_in_fan_out: bool
    """The base weight is stored (in_features, out_features); so are token embeddings, whose inputs are
    the tokens."""
    kernel: tuple[int, ...] = ()
    """Of a convolution, whose weight is stored (out_channels, in_channels, *kernel)."""
    num_experts: int = 1
    """Of a fused weight, stored (experts, ...); A (experts * r, in), B (out, r * experts)."""
    is_embedding: bool = False
    is_parameter: bool = False
    """Of a parameter that the adapter names itself (`target_parameters`), not of a layer's weight."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the base weight as it is stored."""
        num_out, num_in = self.B.shape[0], self.A.shape[1]
        if self.kernel:
            return (num_out, num_in // math.prod(self.kernel), *self.kernel)
        matrix = (num_in, num_out) if self.fan_in_fan_out else (num_out, num_in)
        return (self.num_experts, *matrix) if self.num_experts > 1 else matrix


class AdapterWeights(NamedTuple):
    """A whole adapter, checked."""

    config: dict[str, Any]
    """``adapter_config.json``."""
    layers: dict[str, LayerDelta]
    """By module path in the base model, such as ``model.layers.0.self_attn.q_proj``; on parameters by
    the parameter's name."""
    saved_modules: dict[str, Tensor]
    """Full tensors that take the place of the base's, by name."""
    base_copies: dict[str, Tensor] = {}
    """Base weights that PEFT saves beside adapters of embeddings and heads, by layer."""

    @property
    def method(self) -> Literal["dora", "lora"]:
        """``dora`` where any layer has a magnitude."""
        has_magnitude = any(delta.magnitude is not None for delta in self.layers.values())
        return "dora" if has_magnitude else "lora"


class AdapterFolder(NamedTuple):
    """What lies in an adapter folder, not checked yet."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    parts: dict[str, dict[str, Tensor]]
    """``lora_A``, ``lora_B`` and ``lora_magnitude_vector`` by layer."""
    saved: dict[str, Tensor]
    """Full tensors by name."""
    strange: list[str]
    """Keys that PEFT would drop without a word."""
    embeddings: set[str]
    """Layers with ``lora_embedding_A`` or ``lora_embedding_B``."""
    copies: dict[str, Tensor]
    """Base weights of adapted layers, by layer."""


def open_adapter(path: Path) -> AdapterFolder:
    """Reads the files of a folder without judging what they say.

    Raises:
        AdapterError: One cannot be read.
    """
    config = read_config(path)
    tensors = read_tensors(_weights_file(path))
    folder = AdapterFolder(config, tensors, {}, {}, [], set(), {})
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        end = next((end for end in _PARTS if name.endswith(f".{end}")), None)
        part = _PARTS.get(end or "", "")
        layer = name.removesuffix(f".{end}")
        if not key.startswith(PREFIX) or (part and part in folder.parts.get(layer, {})):
            folder.strange.append(key)
        elif part:
            folder.parts.setdefault(layer, {})[part] = tensor
            if end and end.startswith("lora_embedding"):
                folder.embeddings.add(layer)
        elif "lora_" in name or recognise([key]):
            folder.strange.append(key)
        else:
            folder.saved[name] = tensor
    for layer in folder.parts:
        if (copy := folder.saved.pop(f"{layer}.base_layer.weight", None)) is not None:
            folder.copies[layer] = copy
    return folder


def _weights_file(path: Path) -> Path:
    file = path / WEIGHTS
    if file.is_file():
        return file
    pickled = [p for p in sorted(path.iterdir()) if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if pickled:
        raise AdapterError(
            f"{pickled[0]} is a pickle file, which can run code when it is opened and is refused. "
            "Save the adapter again with safetensors."
        )
    if file.is_symlink():
        raise AdapterError(
            f"{file} is a link to {file.readlink()}, where there is no file. Copy the adapter again "
            "with what its links lead to."
        )
    found = "is no file" if file.exists() else "is not there"
    raise AdapterError(f"{path} holds no {WEIGHTS}: it {found}. Take a complete copy.")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Reads a safetensors file of floating-point numbers.

    Raises:
        AdapterError: It is damaged, or holds another kind of numbers.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a handle of safetensors cannot be iterated)
                dtype = tensors.get_slice(name).get_dtype()
                if dtype not in _DTYPES:
                    raise AdapterError(
                        f"{file} stores {name} as {dtype}; expected one of {', '.join(_DTYPES)}. "
                        "The adapter has been quantised or damaged; take the original."
                    )
            return {name: tensors.get_tensor(name) for name in sorted(tensors.keys())}
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(f"{file} cannot be read: {error}. Is it a complete copy?") from error

"""Adapter folders in PEFT's format, read completely or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from doratune.adapter.config import (
    config_problems,
    is_targeted,
    peft_config,
    rank_of,
    read_config,
    scaling_of,
)
from doratune.adapter.formats import recognise
from doratune.errors import AdapterError

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"
_PARTS = {
    "lora_A.weight": "lora_A",
    "lora_B.weight": "lora_B",
    MAGNITUDE: MAGNITUDE,
    f"{MAGNITUDE}.weight": MAGNITUDE,
}
_DTYPES = ("F32", "F16", "BF16")
_TURNED = 0.1
"""A magnitude below zero turns its feature round. Training starts from a norm and moves all
magnitudes of a layer about equally far, so it carries only those past zero that began near it:
refused where it is further below zero than this part of the layer's median."""


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
    """The base weight is stored (in_features, out_features)."""
    kernel: tuple[int, ...] = ()
    """Of a convolution, whose weight is stored (out_channels, in_channels, *kernel)."""
    num_experts: int = 1
    """Of a fused weight, stored (experts, ...); A (experts * r, in), B (out, r * experts)."""

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
    """By module path in the base model, such as ``model.layers.0.self_attn.q_proj``."""
    saved_modules: dict[str, Tensor]
    """Full tensors that take the place of the base's, by name."""

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
    """Keys that PEFT would drop without a word, and keys of layers that are not linear."""


def read_adapter(path: Path) -> AdapterWeights:
    """Reads a LoRA or DoRA adapter folder, on the CPU.

    Raises:
        AdapterError: The folder is not a complete adapter: a file is missing or broken, a tensor is
            missing, misshapen or not finite, or tensors and configuration contradict each other.
    """
    folder = open_adapter(path)
    problems = list(find_problems(folder))
    if problems:
        more = f" There are {len(problems)} problems; see `doratune inspect {path}`."
        joint = ", " if problems[0].startswith("layer ") else ": "
        raise AdapterError(f"{path}{joint}{problems[0]}{more if len(problems) > 1 else ''}")
    return weights_of(folder)


def open_adapter(path: Path) -> AdapterFolder:
    """Reads the files of a folder without judging what they say.

    Raises:
        AdapterError: One cannot be read.
    """
    config = read_config(path)
    tensors = read_tensors(_weights_file(path))
    folder = AdapterFolder(config, tensors, {}, {}, [])
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        end = next((end for end in _PARTS if name.endswith(f".{end}")), None)
        part = _PARTS.get(end or "", "")
        layer = name.removesuffix(f".{end}")
        if not key.startswith(PREFIX) or (part and part in folder.parts.get(layer, {})):
            folder.strange.append(key)
        elif part:
            folder.parts.setdefault(layer, {})[part] = tensor
        elif "lora_" in name or recognise([key]):
            folder.strange.append(key)
        else:
            folder.saved[name] = tensor
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


def weights_of(folder: AdapterFolder) -> AdapterWeights:
    """The content of a folder that has no problems."""
    config = folder.config
    layers = {}
    for layer, found in sorted(folder.parts.items()):
        magnitude = found.get(MAGNITUDE)
        layers[layer] = LayerDelta(
            found["lora_A"],
            found["lora_B"],
            None if magnitude is None else magnitude.float(),
            scaling_of(config, layer),
            bool(config.get("fan_in_fan_out")),
        )
    return AdapterWeights(config, layers, folder.saved)


def find_problems(folder: AdapterFolder) -> Iterator[str]:
    """Everything for which the adapter is refused, without looking at any base."""
    wrong = list(config_problems(folder.config))
    yield from wrong
    if wrong:
        return
    form = recognise(folder.tensors)
    if form is not None:
        yield (
            f"it is in another format: {form}. PEFT would drop the magnitudes without a word. "
            "Convert it with `doratune adapter convert`."
        )
        return
    for key in folder.strange:
        yield (
            f"{WEIGHTS} holds {key}, which is no tensor of a linear LoRA or DoRA layer "
            f"({PREFIX}... with lora_A.weight, lora_B.weight, {MAGNITUDE}). Was it trained with "
            "another method, or on embeddings or convolutions? These are not supported yet."
        )
    if not folder.parts:
        yield f"it holds no lora_A or lora_B tensor and adapts nothing. Expected {WEIGHTS} of PEFT."
    for layer, found in sorted(folder.parts.items()):
        for problem in _layer_problems(folder.config, layer, found):
            yield f"layer {layer}: {problem}"
    yield from _coverage_problems(folder)


def _layer_problems(config: dict[str, Any], layer: str, found: dict[str, Tensor]) -> Iterator[str]:
    missing = [name for name in ("lora_A", "lora_B") if name not in found]
    if missing:
        yield f"{' and '.join(missing)} missing; the file is not a complete adapter."
        return
    A, B = found["lora_A"], found["lora_B"]
    if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
        yield (
            f"lora_A has shape {tuple(A.shape)} and lora_B {tuple(B.shape)}; expected (r, "
            "in_features) and (out_features, r)."
        )
        return
    rank = rank_of(config, layer)
    if A.shape[0] != rank:
        yield f"lora_A has rank {A.shape[0]}, but adapter_config.json says {rank}."
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            yield (
                f"{name} holds values that are not finite. Training diverged, or the file is "
                "damaged."
            )
    yield from _magnitude_problems(bool(config.get("use_dora")), B.shape[0], found.get(MAGNITUDE))


def _magnitude_problems(use_dora: bool, num_out: int, magnitude: Tensor | None) -> Iterator[str]:
    if magnitude is None:
        if use_dora:
            yield (
                f"adapter_config.json says use_dora, but there is no {MAGNITUDE}. The magnitude was "
                "lost when the adapter was saved or converted; without it the model is another one. "
                "Take the original adapter."
            )
        return
    if not use_dora:
        yield (
            f"there is a {MAGNITUDE}, but adapter_config.json says use_dora false. Loading it so "
            "would drop the magnitude; set use_dora to true."
        )
    if magnitude.shape != (num_out,):
        flat = magnitude.numel() == num_out
        how = " `doratune adapter convert` writes it so." if flat else ""
        yield f"{MAGNITUDE} has shape {tuple(magnitude.shape)}; expected ({num_out},).{how}"
    elif not magnitude.any():
        yield "every magnitude is zero, which makes the layer's output zero."
    else:
        median = magnitude.abs().median().item()
        lowest = magnitude.min().item()
        if lowest < -_TURNED * median:
            yield (
                f"the magnitude of output feature {int(magnitude.argmin())} is {lowest:.6g}, where "
                f"the layer's median is {median:.6g}; expected norms, which training does not carry "
                "so far below zero. Training diverged, or the file is damaged."
            )


def _coverage_problems(folder: AdapterFolder) -> Iterator[str]:
    """Tensors that the configuration does not ask for."""
    config = folder.config
    try:
        of_peft = peft_config(config)
        outside = [layer for layer in sorted(folder.parts) if not is_targeted(of_peft, layer)]
    except AdapterError as error:
        yield str(error)
        return
    for layer in outside:
        yield (
            f"layer {layer}: adapter_config.json does not adapt it (target_modules "
            f"{config['target_modules']!r}), so that PEFT would drop its tensors. Take config and "
            "weights of one training."
        )
    modules: list[str] = config.get("modules_to_save") or []  # PEFT compares the ends of names
    for name, tensor in sorted(folder.saved.items()):
        ends = (*modules, "embed_tokens", "lm_head")  # the last two as PEFT saves resized ones
        parts = name.split(".")
        above = [".".join(parts[:length]) for length in range(1, len(parts))]
        of_bias = parts[-1] == "bias" and config.get("bias", "none") != "none"
        if not of_bias and not any(module.endswith(ends) for module in above):
            yield (
                f"{WEIGHTS} holds {PREFIX}{name} whole, but adapter_config.json has no such module "
                f"in modules_to_save ({modules!r}). Take config and weights of one training."
            )
        if not tensor.isfinite().all():
            yield f"{name} holds values that are not finite. Training diverged, or the file is damaged."

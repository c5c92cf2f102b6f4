"""Adapter folders in PEFT's format, read completely or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from doratune.errors import AdapterError

PREFIX = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"


class LayerDelta(NamedTuple):
    """What an adapter holds for one layer."""

    A: Tensor
    """``lora_A``, (r, in_features)."""
    B: Tensor
    """``lora_B``, (out_features, r)."""
    magnitude: Tensor | None
    """(out_features,), float32; None for LoRA."""
    scaling: float
    fan_in_fan_out: bool
    """The base weight is stored (in_features, out_features)."""


class AdapterWeights(NamedTuple):
    """A whole adapter, checked."""

    config: dict[str, Any]
    """``adapter_config.json``."""
    layers: dict[str, LayerDelta]
    """By module path in the base model, such as ``model.layers.0.self_attn.q_proj``."""
    saved_modules: dict[str, Tensor]
    """Full tensors that take the place of the base's, by name."""


def read_adapter(path: Path) -> AdapterWeights:
    """Reads a LoRA or DoRA adapter folder, on the CPU.

    Raises:
        AdapterError: The folder is not a complete adapter: a file is missing or broken, a tensor is
            missing, misshapen or not finite, or magnitudes and ``use_dora`` contradict each other.
    """
    config = _read_config(path)
    tensors = _read_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        if part in ("lora_A", "lora_B", MAGNITUDE):
            parts.setdefault(layer, {})[part] = tensor
        elif "lora_" in name:
            raise AdapterError(
                f"{path / 'adapter_model.safetensors'} holds {key}, which is no tensor of a linear "
                "LoRA or DoRA layer (lora_A, lora_B, lora_magnitude_vector). Was it trained with "
                "another method, or on embeddings or convolutions? These are not supported yet."
            )
        else:
            saved[name] = tensor
    if not parts:
        raise AdapterError(f"{path} holds no lora_A or lora_B tensor; it adapts nothing.")
    layers = {layer: _check(path, config, layer, found) for layer, found in sorted(parts.items())}
    return AdapterWeights(config, layers, saved)


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{path} is no adapter folder: it has no adapter_config.json.") from None
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file} cannot be read: {error}.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise AdapterError(
            f"{file} says peft_type {found!r}; expected 'LORA', which includes DoRA."
        )
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float) or config[key] <= 0:
            raise AdapterError(
                f"{file} says {key} {config.get(key)!r}; expected a positive number."
            )
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    file = path / "adapter_model.safetensors"
    if not file.exists():
        pickled = path / "adapter_model.bin"
        raise AdapterError(
            f"{pickled} is a pickle file, which can run code when it is opened and is refused. "
            "Save the adapter again with safetensors."
            if pickled.exists()
            else f"{path} holds no adapter_model.safetensors."
        )
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{file} cannot be read: {error}. Is it a complete copy?") from error


def _check(path: Path, config: dict[str, Any], layer: str, found: dict[str, Tensor]) -> LayerDelta:
    def fail(what: str) -> AdapterError:
        return AdapterError(f"{path}, layer {layer}: {what}")

    missing = [name for name in ("lora_A", "lora_B") if name not in found]
    if missing:
        raise fail(f"{' and '.join(missing)} missing; the file is not a complete adapter.")
    A, B, magnitude = found["lora_A"], found["lora_B"], found.get(MAGNITUDE)
    if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
        raise fail(
            f"lora_A has shape {tuple(A.shape)} and lora_B {tuple(B.shape)}; "
            "expected (r, in_features) and (out_features, r)."
        )
    rank = _pattern(config.get("rank_pattern"), layer, config["r"])
    if A.shape[0] != rank:
        raise fail(f"lora_A has rank {A.shape[0]}, but adapter_config.json says {rank}.")
    if config.get("use_dora") and magnitude is None:
        raise fail(
            "adapter_config.json says use_dora, but there is no lora_magnitude_vector. The magnitude "
            "was lost when the adapter was saved or converted; without it the model is another one. "
            "Take the original adapter."
        )
    if magnitude is not None:
        if not config.get("use_dora"):
            raise fail(
                "there is a lora_magnitude_vector, but adapter_config.json says use_dora false. "
                "Loading it so would drop the magnitude; set use_dora to true."
            )
        if magnitude.shape != B.shape[:1]:
            raise fail(
                f"lora_magnitude_vector has shape {tuple(magnitude.shape)}; "
                f"expected ({B.shape[0]},)."
            )
        magnitude = magnitude.float()
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise fail(
                f"{name} holds values that are not finite. Training diverged, or the file is damaged."
            )
    if magnitude is not None and not magnitude.any():
        raise fail("every magnitude is zero, which makes the layer's output zero.")
    alpha = _pattern(config.get("alpha_pattern"), layer, config["lora_alpha"])
    root = math.sqrt(rank) if config.get("use_rslora") else rank
    return LayerDelta(A, B, magnitude, alpha / root, bool(config.get("fan_in_fan_out")))


def _pattern(pattern: dict[str, float] | None, layer: str, default: float) -> float:
    """PEFT's ``rank_pattern`` and ``alpha_pattern``: a regular expression for the end of the name."""
    from peft.utils.other import get_pattern_key

    pattern = pattern or {}
    return pattern.get(get_pattern_key(pattern.keys(), layer), default)

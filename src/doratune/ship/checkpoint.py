"""The weights of a checkpoint and of an adapter, brought together by tensor name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from doratune.adapter import LayerDelta, read_adapter
from doratune.adapter.tuned import check_base
from doratune.base import tensor_files
from doratune.errors import AdapterError, ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class Plan(NamedTuple):
    """What a merged checkpoint is made of, by the checkpoint's own tensor names."""

    method: Literal["dora", "lora", "full"]
    files: dict[str, Path]
    """Every tensor, and the safetensors file it is taken from."""
    deltas: dict[str, LayerDelta]
    """Weights that the adapter changes."""
    layers: dict[str, str]
    """Layer of each of these weights."""
    saved: dict[str, Tensor]
    """Tensors that the adapter holds whole."""
    base_weight: Callable[[str], Tensor] | None = None
    """Makes the base tensor of an adapted weight, by the name here; None takes it as it is stored."""

    def base_name(self, name: str) -> str:
        """What a tensor is called in the file it is taken from."""
        return name

    def weight(self, name: str) -> Tensor:
        """The base tensor of an adapted weight."""
        if self.base_weight is not None:
            return self.base_weight(name)
        return read_tensor(self.files, name)


def plan_merge(base_path: Path, adapter_path: Path) -> Plan:
    """Finds the base tensor of everything that the adapter holds.

    A fully fine-tuned model is an adapter folder without ``adapter_config.json``; its plan takes
    every tensor from there.

    Raises:
        AdapterError: The adapter is incomplete, belongs to another base, or holds something that
            has no place in this base.
        ModelError: The weights of base or fully fine-tuned model are missing or damaged.
    """
    check_base(base_path, adapter_path)
    if not (adapter_path / "adapter_config.json").exists():
        return Plan("full", tensor_files(adapter_path), {}, {}, {})
    adapter = read_adapter(adapter_path)
    files = tensor_files(base_path)
    layers: dict[str, str] = {}
    saved: dict[str, Tensor] = {}
    for wanted in [*(f"{layer}.weight" for layer in adapter.layers), *adapter.saved_modules]:
        name = _find(wanted, files, adapter_path)
        if name in layers or name in saved:
            raise AdapterError(
                f"{adapter_path} changes the base tensor {name} twice; expected once. "
                "Are there two adapters in one file?"
            )
        if wanted in adapter.saved_modules:
            saved[name] = adapter.saved_modules[wanted]
        else:
            layers[name] = wanted.removesuffix(".weight")
    deltas = {name: adapter.layers[layer] for name, layer in layers.items()}
    return Plan(adapter.method, files, deltas, layers, saved)


def _find(wanted: str, files: Iterable[str], adapter_path: Path) -> str:
    """The base's name for a tensor: GPT-2's checkpoints leave out the model's own prefix."""
    for name in (wanted, wanted.partition(".")[2]):
        if name in files:
            return name
    near = get_close_matches(wanted, files, n=1, cutoff=0)
    raise AdapterError(
        f"{adapter_path} adapts {wanted}, which the base does not hold; the nearest name there is "
        f"{near[0] if near else 'none'}. Was it trained on another base, or on a layer whose "
        "weight is shared with another (tied embeddings)? Such a layer cannot be merged."
    )


def read_tensor(files: dict[str, Path], name: str) -> Tensor:
    """Reads one tensor of a checkpoint."""
    with safe_open(files[name], framework="pt") as tensors:
        return tensors.get_tensor(name)


def stored_dtype(path: Path) -> str:
    """The dtype of most of a checkpoint's weights.

    Raises:
        ModelError: It is none that a merged model can have: the base is quantised.
    """
    counts: Counter[str] = Counter()
    files = tensor_files(path)
    for file in set(files.values()):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a handle of safetensors cannot be iterated)
                part = tensors.get_slice(name)
                counts[part.get_dtype()] += math.prod(part.get_shape())
    found = counts.most_common(1)[0][0] if counts else "nothing"
    if found not in _STORED:
        raise ModelError(
            f"Most weights of {path} are stored as {found}; merging needs F32, BF16 or F16. "
            "Merge into the unquantised model."
        )
    return _STORED[found]

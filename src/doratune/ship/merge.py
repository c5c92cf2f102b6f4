"""Base and adapter become one ordinary checkpoint, shard by shard, without any model class."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from doratune.adapter import LayerDelta
from doratune.base.tensors import INDEX, WEIGHTS, num_bytes
from doratune.errors import AdapterError, ModelError, StorageError
from doratune.progress import track
from doratune.record.files import replacing
from doratune.record.schemas import ORIGIN, AdapterOrigin
from doratune.ship.checkpoint import DTYPES, Plan, plan_merge
from doratune.ship.weight import merged_weight

_WEIGHT_SUFFIXES = {
    ".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors",
}  # fmt: skip
_RESERVE_BYTES = 64 * 2**20
"""For the tokenizer, the headers and what else is written meanwhile."""


class Merged(NamedTuple):
    """What was written."""

    method: Literal["dora", "lora", "full"]
    num_merged_tensors: int
    """Tensors that the adapter changed; all of them after full fine-tuning."""
    num_copied_tensors: int
    num_bytes: int
    """Size of the weights."""


@torch.no_grad()
def merge(base_path: Path, adapter_path: Path, target: Path, dtype: str) -> Merged:
    """Writes ``W' = (m / n) (W + scaling B A)`` for every adapted layer, everything else as it was.

    Computed in float32 and rounded once, with one shard in memory. ``target`` appears whole or not
    at all, and is a checkpoint that plain transformers loads.

    Args:
        base_path: Folder of the base model.
        adapter_path: Adapter in PEFT's format, or a fully fine-tuned model.
        target: Folder to write; replaced if it exists.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``: precision of all weights.

    Raises:
        AdapterError: The adapter is incomplete, was trained on another base or does not fit, or was
            trained over a base in 4 bits.
        ModelError: The base is damaged or quantised, or a weight is too large for ``dtype``.
        StorageError: There is too little space, or the folder cannot be written.
    """
    _refuse_quantised(adapter_path)
    plan = plan_merge(base_path, adapter_path)
    _check_space(target, num_bytes(plan.files, DTYPES[dtype].itemsize))
    with replacing(target) as folder:
        folder.mkdir()
        _copy_others(base_path, folder)
        if plan.method == "full":
            _copy_others(adapter_path, folder)
        _set_dtype(folder / "config.json", dtype)
        size = _write_weights(plan, adapter_path, folder, DTYPES[dtype])
    num_merged = len(plan.files) if plan.method == "full" else len(plan.deltas) + len(plan.saved)
    return Merged(plan.method, num_merged, len(plan.files) - num_merged, size)


def _refuse_quantised(adapter_path: Path) -> None:
    origin = adapter_path / ORIGIN
    if origin.exists() and (quantize := AdapterOrigin.read(origin).quantize):
        raise AdapterError(
            f"{adapter_path} was trained over a base in 4 bits ({quantize}). Merged into the base's own "
            "weights it would be another model. Use the adapter on the quantised base, or train it "
            "again without model.quantize."
        )


def _check_space(target: Path, needed: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < needed + _RESERVE_BYTES:
        raise StorageError(
            f"The merged model takes {needed + _RESERVE_BYTES} bytes, but {target.parent} has "
            f"{free} left. Free some space, or choose a smaller merge.dtype."
        )


def _write_weights(plan: Plan, adapter_path: Path, folder: Path, dtype: torch.dtype) -> int:
    shards: defaultdict[Path, list[str]] = defaultdict(list)
    for name, file in plan.files.items():
        shards[file].append(name)
    size = 0
    for file, names in track(sorted(shards.items()), "Merging", total=len(shards)):
        with safe_open(file, framework="pt") as base:
            tensors = {
                name: _merged_tensor(name, base.get_tensor(name), plan, adapter_path, dtype)
                for name in names
            }
        size += sum(tensor.nbytes for tensor in tensors.values())
        try:
            save_file(tensors, folder / file.name, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk arrives as this, not as OSError
            raise StorageError(
                f"{file.name} of the merged model could not be written to {folder.parent}: "
                f"{error}. Nothing was left behind."
            ) from error
        # safetensors writes for the owner only; a model is served by others too.
        shutil.copymode(folder / "config.json", folder / file.name)
    if [file.name for file in shards] != [WEIGHTS]:
        index = {
            "metadata": {"total_size": size},
            "weight_map": {name: file.name for name, file in sorted(plan.files.items())},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return size


def _merged_tensor(
    name: str, tensor: Tensor, plan: Plan, adapter_path: Path, dtype: torch.dtype
) -> Tensor:
    if name in plan.saved:
        saved = plan.saved[name]
        if saved.shape != tensor.shape:
            raise AdapterError(
                f"{adapter_path} holds {name} whole, with shape {tuple(saved.shape)}; the base's "
                f"has {tuple(tensor.shape)}. It was trained on another base."
            )
        tensor = saved
    elif name in plan.deltas:
        check_fit(plan.layers[name], tensor, plan.deltas[name], adapter_path)
        tensor = merged_weight(tensor, plan.deltas[name])
    return rounded(name, tensor, dtype).contiguous()


def check_fit(layer: str, weight: Tensor, delta: LayerDelta, adapter_path: Path) -> None:
    """Refuses a base weight that the adapter was not made for.

    Raises:
        AdapterError: The shapes differ.
        ModelError: The weight is quantised.
    """
    if not weight.is_floating_point() or weight.itemsize == 1:
        raise ModelError(
            f"The base weight of {layer} is stored as {weight.dtype}; merging needs float32, "
            "bfloat16 or float16. Merge into the unquantised model."
        )
    expected = (delta.B.shape[0], delta.A.shape[1])
    if delta.fan_in_fan_out:
        expected = expected[::-1]
    if tuple(weight.shape) != expected:
        raise AdapterError(
            f"{adapter_path}, layer {layer}: the adapter fits a weight of shape {expected}, but "
            f"the base's has {tuple(weight.shape)}. It was trained on another base."
        )


def rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts floating-point values to the nearest in ``dtype``; other tensors stay.

    Raises:
        ModelError: A finite value has become infinite.
    """
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if (cast.isinf() & tensor.isfinite()).any():
        raise ModelError(
            f"{name} holds values up to {tensor.abs().max().item():.6g}, and {dtype} ends at "
            f"{torch.finfo(dtype).max:.6g}. Set merge.dtype to bfloat16 or float32."
        )
    return cast


def _copy_others(source: Path, folder: Path) -> None:
    """Copies configuration, tokenizer, template and licence, whatever their names."""
    for file in sorted(source.iterdir()):
        if (
            file.is_file()
            and not file.name.startswith(".")
            and file.suffix not in _WEIGHT_SUFFIXES
            and not file.name.endswith(".index.json")
            and file.name not in (ORIGIN, "README.md")  # these speak of another model
        ):
            shutil.copyfile(file, folder / file.name)


def _set_dtype(file: Path, dtype: str) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    # transformers 5 and what is older.
    config.update(dtype=dtype, torch_dtype=dtype)
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

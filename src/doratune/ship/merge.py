"""Base and adapter become one ordinary checkpoint, block by block, without any model class."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import torch

from doratune.errors import StorageError
from doratune.record.files import replacing
from doratune.record.schemas import ORIGIN, Onto
from doratune.ship.checkpoint import DTYPES
from doratune.ship.onto import check_onto, plan_onto, requantize
from doratune.ship.row_blocks import Part
from doratune.ship.write import lay_out, write_weights

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
def merge(
    base_path: Path, adapter_path: Path, target: Path, dtype: str, onto: Onto | None = None
) -> Merged:
    """Writes ``W' = (m / n) (W + scaling B A)`` for every adapted layer, everything else as it was.

    Computed in float32 and rounded once, with a block of rows in memory. ``target`` appears whole or
    not at all, and is a checkpoint that plain transformers loads.

    Args:
        base_path: Folder of the base model.
        adapter_path: Adapter in PEFT's format, or a fully fine-tuned model.
        target: Folder to write; replaced if it exists.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``: precision of all weights.
        onto: Which weights of a base that training quantised, and only then.

    Raises:
        ConfigError: The base was quantised in training and ``onto`` is None, or the other way round.
        AdapterError: The adapter is incomplete, was trained on another base or does not fit.
        ModelError: The base is damaged or quantised, or a weight is too large for ``dtype``.
        StorageError: There is too little space, or the folder cannot be written.
    """
    if onto == "requantize":
        return _merge_requantized(base_path, adapter_path, target, dtype)
    plan = plan_onto(base_path, adapter_path, onto)
    parts = {name: [Part(delta)] for name, delta in plan.deltas.items()}
    layouts = lay_out(plan, parts, adapter_path, DTYPES[dtype])
    size = sum(layout.num_bytes for layout in layouts.values())
    _check_space(target, size)
    with replacing(target) as folder:
        folder.mkdir()
        _copy_others(base_path, folder)
        if plan.method == "full":
            _copy_others(adapter_path, folder)
        _set_config(folder / "config.json", dtype, untied=bool(plan.untied))
        write_weights(plan, parts, layouts, folder, DTYPES[dtype])
    num_merged = len(plan.files) if plan.method == "full" else len(plan.deltas) + len(plan.saved)
    return Merged(plan.method, num_merged, len(plan.files) - num_merged, size)


def _merge_requantized(base_path: Path, adapter_path: Path, target: Path, dtype: str) -> Merged:
    quantize = check_onto(adapter_path, "requantize")
    assert quantize is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
        dense = Path(beside) / "dense"
        merged = merge(base_path, adapter_path, dense, dtype, "dequantized")
        with replacing(target) as folder:
            folder.mkdir()
            size = requantize(dense, folder, quantize)
    return merged._replace(num_bytes=size)


def _check_space(target: Path, needed: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < needed + _RESERVE_BYTES:
        raise StorageError(
            f"The merged model takes {needed + _RESERVE_BYTES} bytes, but {target.parent} has "
            f"{free} left. Free some space, or choose a smaller merge.dtype."
        )


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


def _set_config(file: Path, dtype: str, *, untied: bool) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    # transformers 5 and what is older.
    config.update(dtype=dtype, torch_dtype=dtype)
    if untied:
        config["tie_word_embeddings"] = False
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

"""Which tensors a checkpoint holds, and in which of its files."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

from safetensors import SafetensorError, safe_open

from doratune.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def tensor_files(path: Path) -> dict[str, Path]:
    """Maps every tensor name of a checkpoint folder to the safetensors file that holds it.

    Reads the headers of all files, not the weights.

    Raises:
        ModelError: There are no safetensors weights, the index names a file that is missing or a
            tensor that its file does not hold, or a file is damaged.
    """
    if (path / WEIGHTS).is_file():
        return dict.fromkeys(_names(path / WEIGHTS), path / WEIGHTS)
    if not (path / INDEX).is_file():
        raise ModelError(
            f"{path} has neither {WEIGHTS} nor {INDEX}. Save the model there with "
            "`model.save_pretrained(folder)`."
        )
    place_of = _read_index(path / INDEX)
    names_in = defaultdict(set)
    for name, file in place_of.items():
        names_in[file].add(name)
    for file, names in sorted(names_in.items()):
        if not (path / file).is_file():
            raise ModelError(
                f"{path / INDEX} names {file!r}, which is not in the folder. Fetch it."
            )
        lacking = names - set(_names(path / file))
        if lacking:
            raise ModelError(
                f"{path / INDEX} says that {file!r} holds {min(lacking)!r}, which it does not. "
                "Fetch index and weights again; they belong to different models."
            )
    return {name: path / file for name, file in place_of.items()}


def num_bytes(files: dict[str, Path], itemsize: int) -> int:
    """Size of all tensors once their floating-point ones take ``itemsize`` bytes a number.

    Args:
        files: What `tensor_files` returned.
        itemsize: Of the floating-point numbers; others are taken to have 8 bytes.
    """
    total = 0
    for file in set(files.values()):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a handle of safetensors cannot be iterated)
                part = tensors.get_slice(name)
                floating = part.get_dtype() in ("F32", "BF16", "F16")
                total += math.prod(part.get_shape()) * (itemsize if floating else 8)
    return total


def _read_index(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is no index of safetensors files ({error!r}); expected JSON with a "
            "'weight_map'. Fetch the file again."
        ) from error


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is not a whole safetensors file ({error}). Fetch or save the file again."
        ) from error

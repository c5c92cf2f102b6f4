"""The folder of a merged model: there whole or not at all, with what goes along beside the weights."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doratune.errors import StorageError
from doratune.record.files import ORIGIN, remove_leftovers, replacing

RECORD = "merge.json"
"""In a folder made of several adapters: what it was made of."""

_WEIGHT_SUFFIXES = {
    ".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors",
}  # fmt: skip
_RESERVE_BYTES = 64 * 2**20
"""For the tokenizer, the headers and what else is written meanwhile."""


@contextmanager
def new_folder(target: Path, num_bytes: int) -> Iterator[Path]:
    """Yields an empty folder that takes the place of ``target`` on success, and else vanishes.

    What a killed process left of an earlier try is removed first.

    Args:
        target: Where it will be.
        num_bytes: Size of the weights.

    Raises:
        StorageError: There is too little space, or the folder cannot be written.
    """
    remove_leftovers(target)  # they take space
    check_space(target, num_bytes)
    with replacing(target) as folder:
        folder.mkdir()
        with _owned(folder):
            yield folder


@contextmanager
def steps_folder(target: Path) -> Iterator[Path]:
    """Yields a folder beside ``target`` for what is needed on the way; removed afterwards."""
    remove_leftovers(target)
    folder = target.with_name(f".{target.name}.{os.getpid()}.steps.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with _owned(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder, which the system lets go of when the process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_space(target: Path, num_bytes: int) -> None:
    """Makes sure before the work that a model of this size has its place.

    Raises:
        StorageError: It has not.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < num_bytes + _RESERVE_BYTES:
        raise StorageError(
            f"The merged model takes {num_bytes + _RESERVE_BYTES} bytes, but {target.parent} has "
            f"{free} left. Free some space, or choose a smaller merge.dtype."
        )


def copy_others(source: Path, folder: Path) -> None:
    """Copies configuration, tokenizer, template and licence, whatever their names."""
    for file in sorted(source.iterdir()):
        if (
            file.is_file()
            and not file.name.startswith(".")
            and file.suffix not in _WEIGHT_SUFFIXES
            and not file.name.endswith(".index.json")
            and file.name not in (ORIGIN, RECORD, "README.md")  # these speak of another model
        ):
            shutil.copyfile(file, folder / file.name)


def set_config(file: Path, dtype: str, *, untied: bool) -> None:
    """Says in a config.json what the merged weights are."""
    config = json.loads(file.read_text(encoding="utf-8"))
    # transformers 5 and what is older.
    config.update(dtype=dtype, torch_dtype=dtype)
    if untied:
        config["tie_word_embeddings"] = False
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

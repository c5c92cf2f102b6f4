"""The identity of a base model: one digest of its weights, whatever files they lie in."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import safe_open

from doratune.base.cache import cache_folder
from doratune.base.tensors import tensor_files
from doratune.record.files import digest_json, write_text


def fingerprint(path: Path) -> str:
    """The SHA-256 of a checkpoint's weights, in hexadecimal.

    Covers name, dtype, shape and bytes of every tensor in the order of the names, so a sharded and
    an unsharded copy have the same fingerprint. The digest is remembered in the cache folder for as
    long as the files keep their place, size and modification time.

    Raises:
        ModelError: The weights are missing, incomplete or damaged.
    """
    place_of = tensor_files(path)
    files = sorted({file.resolve() for file in place_of.values()})
    states = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    key = digest_json(states)
    known = _remembered().get(key)
    if known:
        return known
    value = _digest(place_of)
    # A file that was written this moment may change again without a change of its time stamp,
    # which steps in milliseconds on common file systems.
    if all(time.time_ns() - modified > 2_000_000_000 for _, _, modified in states):
        _remember(key, value)
    return value


def _digest(place_of: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    with ExitStack() as stack:
        tensors_of = {
            file: stack.enter_context(safe_open(file, framework="pt"))
            for file in set(place_of.values())
        }
        for name in sorted(place_of):
            tensors = tensors_of[place_of[name]]
            part = tensors.get_slice(name)
            digest.update(json.dumps([name, part.get_dtype(), part.get_shape()]).encode())
            digest.update(tensors.get_tensor(name).reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _remembered() -> dict[str, str]:
    try:
        digests = json.loads((cache_folder() / "fingerprints.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return digests if isinstance(digests, dict) else {}


def _remember(key: str, value: str) -> None:
    # Where the cache cannot be written, the next call computes the digest again.
    with suppress(OSError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        with FileLock(cache_folder() / "fingerprints.lock"):
            digests = {**_remembered(), key: value}
            write_text(cache_folder() / "fingerprints.json", json.dumps(digests, indent=1))

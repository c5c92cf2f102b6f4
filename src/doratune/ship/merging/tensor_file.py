"""Safetensors files read and written piece by piece, so that no tensor need be in memory whole.

The format: 8 bytes with the length of the header, little-endian; the header, JSON with dtype, shape and
place of every tensor, padded with spaces to a multiple of 8; the tensors one after the other. Names,
dtypes and shapes are enough to write the header, and with it every place, before the first number.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from doratune.errors import ModelError

FLOATS = {
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
}  # fmt: skip
CODES = {dtype: code for code, dtype in FLOATS.items()}

_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "F8_E4M3", "I8", "U8", "BOOL")
"""The library's order within a file: the widest numbers first, so that each is aligned to its size."""

_UNSUPPORTED = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_PIECE_BYTES = 16 << 20


class Stored(NamedTuple):
    """One tensor as it lies in a file."""

    dtype: str
    """The format's name, such as ``BF16``."""
    shape: tuple[int, ...]
    start: int
    """Bytes from the beginning of the file."""
    num_bytes: int


class Layout(NamedTuple):
    """A file that is to be written."""

    header: bytes
    tensors: dict[str, Stored]
    """In the order in which they lie in the file."""

    @property
    def num_bytes(self) -> int:
        """Of the tensors."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())


def read_header(file: Path) -> dict[str, Stored]:
    """What a safetensors file, known to be whole, holds and where."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        entries: dict[str, Any] = json.loads(opened.read(length))
    found = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            found[name] = Stored(entry["dtype"], shape, 8 + length + begin, end - begin)
    return found


def plan_file(tensors: Mapping[str, Stored]) -> Layout:
    """The header and all places of a file, as safetensors itself would write it.

    Args:
        tensors: By name; where they start does not matter.
    """

    def place(name: str) -> tuple[int, int, str]:
        dtype = tensors[name].dtype
        digits = dtype.partition("_")[0].strip("BCFIU")
        width = int(digits) if digits.isdecimal() else 8
        return (-width, _ORDER.index(dtype) if dtype in _ORDER else len(_ORDER), name)

    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    size = 0
    for name in sorted(tensors, key=place):
        dtype, shape, _, num_bytes = tensors[name]
        offsets = [size, size + num_bytes]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        size += num_bytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    del entries["__metadata__"]
    places = {
        name: tensors[name]._replace(start=8 + len(text) + entry["data_offsets"][0])
        for name, entry in entries.items()
    }
    return Layout(len(text).to_bytes(8, "little") + text, places)


def read_into(descriptor: int, start: int, target: Tensor, file: Path) -> None:
    """Fills a contiguous tensor with the bytes of a file from ``start`` on.

    Raises:
        ModelError: The file ends before.
    """
    view = memoryview(as_bytes(target))
    while view:
        count = os.preadv(descriptor, [view], start)
        if not count:
            raise ModelError(f"{file} ends before its last tensor. Fetch the file again.")
        view, start = view[count:], start + count


def write_from(descriptor: int, start: int, source: Tensor) -> None:
    """Writes a contiguous tensor's bytes to a place in a file."""
    write_bytes(descriptor, start, memoryview(as_bytes(source)))


def write_bytes(descriptor: int, start: int, data: bytes | memoryview) -> None:
    """Writes all of ``data`` to a place in a file; one call of the system may write less."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, start)
        view, start = view[count:], start + count


def copy_bytes(source: int, start: int, target: int, to: int, count: int) -> None:
    """Copies bytes between files inside the kernel, or through memory where it cannot."""
    while count:
        try:
            done = os.copy_file_range(source, target, min(count, _PIECE_BYTES), start, to)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            done = 0
        if not done:
            data = os.pread(source, min(count, _PIECE_BYTES), start)
            if not data:
                raise ModelError("A file of the base ends before its last tensor. Fetch it again.")
            write_bytes(target, to, data)
            done = len(data)
        start, to, count = start + done, to + done, count - done


def as_bytes(tensor: Tensor) -> Any:
    """A contiguous tensor's memory, for the operating system's calls."""
    return tensor.reshape(-1).view(torch.uint8).numpy()

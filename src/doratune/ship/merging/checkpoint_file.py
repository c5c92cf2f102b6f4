"""One file of a merged checkpoint, written by several threads, each at its own places."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from doratune.ship.merging.tensor_file import (
    FLOATS,
    Layout,
    Stored,
    copy_bytes,
    read_into,
    write_bytes,
    write_from,
)

_SYNC_BYTES = 64 << 20
"""The disk is set to work whenever so much has been written, not only at the end."""


class StoredRows:
    """A floating-point tensor of a safetensors file, read in pieces into one buffer."""

    def __init__(self, descriptor: int, stored: Stored, file: Path) -> None:
        self.descriptor, self.stored, self.file = descriptor, stored, file
        self.dtype = FLOATS[stored.dtype]
        self.buffer = torch.empty(0, dtype=self.dtype)

    def read(self, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop``; the next call overwrites them."""
        if len(self.buffer) < stop - start:
            self.buffer = torch.empty(stop - start, dtype=self.dtype)
        piece = self.buffer[: stop - start]
        first = self.stored.start + start * self.dtype.itemsize
        read_into(self.descriptor, first, piece, self.file)
        return piece


class TensorRows:
    """A tensor in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self.flat = tensor.reshape(-1)

    def read(self, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop``."""
        return self.flat[start:stop]


class CheckpointFile:
    """A safetensors file that is written tensor by tensor, and is on the disk when closed.

    Several threads may write to it at once, each a tensor of its own.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.layout = layout
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._syncer = ThreadPoolExecutor(1, "syncer")
        self._syncing: Future[None] | None = None
        self._unsynced = 0
        self._counting = Lock()

    def __enter__(self) -> Self:
        write_bytes(self.descriptor, 0, self.layout.header)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                if self._syncing is not None:
                    self._syncing.result()  # the kernel tells of a failed write only once
                os.fsync(self.descriptor)
        finally:
            self._syncer.shutdown()
            os.close(self.descriptor)

    def writer_of(self, name: str) -> Callable[[int, Tensor], None]:
        """What takes the blocks of a tensor: the number of a block's first element, and the block."""
        start = self.layout.tensors[name].start

        def write(first: int, block: Tensor) -> None:
            write_from(self.descriptor, start + first * block.itemsize, block)
            self._count(block.nbytes)

        return write

    def copy(self, name: str, source: int, stored: Stored) -> None:
        """Copies a tensor's bytes from another file as they are."""
        target = self.layout.tensors[name].start
        copy_bytes(source, stored.start, self.descriptor, target, stored.num_bytes)
        self._count(stored.num_bytes)

    def _count(self, num_bytes: int) -> None:
        with self._counting:
            self._unsynced += num_bytes
            if self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
                if self._syncing is not None:
                    self._syncing.result()
                self._syncing = self._syncer.submit(os.fdatasync, self.descriptor)
                self._unsynced = 0

"""The bytes of a file, decompressed, in blocks and in whole lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from doratune.data.read.rows import MAX_ROW_BYTES, too_large
from doratune.errors import DataError
from doratune.record.files import digest_bytes, replacing

BLOCK_BYTES = 1 << 20

CODECS = {".gz": "gzip", ".zst": "zstd"}

_STARTS = {
    "gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "Parquet": b"PAR1",
    "Arrow": b"ARROW1",
    "UTF-16": codecs.BOM_UTF16_LE,
    "UTF-16 ": codecs.BOM_UTF16_BE,
}


@dataclass(frozen=True)
class DataFile:
    """A file on disk and what its name says of it."""

    name: str
    """How messages and places call it."""
    path: Path
    kind: str
    """``jsonl``, ``json``, ``csv``, ``tsv``, ``parquet`` or ``arrow``."""
    codec: str | None
    """``gzip``, ``zstd``, or None where it is not compressed."""

    @property
    def is_text(self) -> bool:
        """Whether it has lines."""
        return self.kind not in ("parquet", "arrow")

    def blocks(self) -> Iterator[bytes]:
        """The content in blocks of 1 MiB at most.

        Raises:
            DataError: The file cannot be read, or breaks off; where, is said.
        """
        num_bytes, num_lines = 0, 0
        try:
            with self.path.open("rb") as raw, _decompressed(raw, self.codec) as file:
                while block := file.read(BLOCK_BYTES):
                    yield block
                    num_bytes += len(block)
                    num_lines += block.count(b"\n") if self.is_text else 0
        except OSError as error:
            if error.errno is not None:
                raise DataError(f"{self.name} cannot be read: {error.strerror}.") from error
            whole = f"{num_lines:,} lines and " if self.is_text else ""
            raise DataError(
                f"{self.name} is not a whole {self.codec} file: {error}, somewhere after {whole}"
                f"{num_bytes:,} bytes of its content. It may have been cut or damaged while it was "
                "copied; fetch it again."
            ) from error

    def whole_lines(self) -> Iterator[tuple[int, bytes]]:
        """The content in pieces of whole lines, about 1 MiB each, without a byte-order mark.

        Yields:
            The number of the first line, from 1, and the lines with their line feeds. Only a line
            feed ends a line: JSON strings may hold other Unicode line separators.

        Raises:
            DataError: The file breaks off, or a line is larger than 16 MiB.
        """
        first, rest = 1, b""
        for number, block in enumerate(self.blocks()):
            if number == 0:
                block = block.removeprefix(codecs.BOM_UTF8)
            end = block.rfind(b"\n") + 1
            # Lines that cross blocks grow here, so a line is found too large before it is whole.
            if len(rest) + (block.find(b"\n") if end else len(block)) > MAX_ROW_BYTES:
                raise too_large(f"{self.name}:{first}", "line")
            if end:
                piece = rest + block[:end]
                yield first, piece
                first += piece.count(b"\n")
                rest = block[end:]
            else:
                rest += block
        if rest:
            yield first, rest

    def check_start(self) -> None:
        """Compares the first bytes with what the name promises.

        Raises:
            DataError: The file is empty, cannot be read, or is plainly something else.
        """
        try:
            with self.path.open("rb") as file:
                start = file.read(8)
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror}.") from error
        if not start:
            raise DataError(f"{self.name} is empty; at least one example is needed.")
        found = next((what.strip() for what, b in _STARTS.items() if start.startswith(b)), None)
        if self.codec is not None:
            if found != self.codec:
                raise DataError(
                    f"{self.name} is not a {self.codec} file: it starts with {start!r}"
                    f"{f', as {found} does' if found else ''}. Name it as what it is."
                )
        elif self.is_text and found == "UTF-16":
            raise DataError(f"{self.name} is UTF-16 text; save it as UTF-8.")
        elif self.is_text and found is not None:
            raise DataError(
                f"{self.name} is not {self.kind} text: it starts with {start!r}, as {found} does. "
                "Name it as what it is."
            )

    def unpacked(self, work: Path) -> Path:
        """The path of the content without compression: its own, or one in ``work``.

        Raises:
            DataError: The file breaks off.
            StorageError: ``work`` cannot be written.
        """
        if self.codec is None:
            return self.path
        # By the whole path, since two sources may have files of one name.
        path = work / f"{digest_bytes(str(self.path).encode())[:16]}.{self.kind}"
        with replacing(path) as temporary, temporary.open("wb") as file:
            for block in self.blocks():
                file.write(block)
        return path


def codec_of(path: Path) -> str | None:
    """The codec whose mark a file starts with."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((codec for codec in CODECS.values() if start.startswith(_STARTS[codec])), None)


def _decompressed(raw: IO[bytes], codec: str | None) -> IO[bytes]:
    return raw if codec is None else pa.CompressedInputStream(raw, codec)

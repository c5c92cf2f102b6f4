"""Standard input, spooled to a file, since it can be read only once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from doratune.data.read.streams import BLOCK_BYTES, DataFile, codec_of
from doratune.errors import DataError
from doratune.record.files import replacing

NAME = "stdin"
"""What places and messages call it."""


def spool(work: Path) -> DataFile:
    """Writes standard input to a file in ``work`` and looks at its start for what it is.

    Raises:
        DataError: It is a terminal, closed, or empty.
        StorageError: ``work`` cannot be written.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise DataError("Standard input is closed, and the recipe's source is '-'; pipe a file in.")
    if sys.stdin.isatty():
        raise DataError(
            "Standard input is a terminal, and the recipe's source is '-'. Pipe a file in: "
            "`doratune data recipe.yaml < file.jsonl`."
        )
    path = work / NAME
    with replacing(path) as temporary, temporary.open("wb") as spooled:
        shutil.copyfileobj(sys.stdin.buffer, spooled, BLOCK_BYTES)
    if not path.stat().st_size:
        raise DataError(
            "Standard input is empty; at least one example is needed. It can be read only once, so "
            "only one source may be '-'."
        )
    file = DataFile(NAME, path, "jsonl", codec_of(path))
    start = next(file.blocks(), b"").removeprefix(b"\xef\xbb\xbf")
    return DataFile(NAME, path, _kind(start), file.codec)


def _kind(start: bytes) -> str:
    """The kind of the content that starts so."""
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    text = start.lstrip()
    header = text.partition(b"\n")[0]
    if text.startswith(b"["):
        return "json"
    if text.startswith(b"{"):
        return "jsonl"
    # Not JSON; a header of several columns is of a table.
    return "tsv" if b"\t" in header else "csv" if b"," in header else "jsonl"

"""Sources for tests: written in any form, read back whole."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from doratune.data.read import Row, Unreadable, open_source
from doratune.recipe.schema import SourceSection


def write(path: Path, data: str | bytes) -> Path:
    """Writes a file, compressed as its name says."""
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(packed(data, path.suffix))
    return path


def packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data, mtime=0)
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as file:
            file.write(data)
        return sink.getvalue().to_pybytes()
    return data


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def arrow(table: pa.Table, kind: str = "stream", rows: int = 1000) -> bytes:
    """The table in batches of ``rows``, in Arrow's ``stream`` or ``file`` format."""
    sink = io.BytesIO()
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def read(path: Path | str, size: int = 1000, **section: Any) -> list[Row | Unreadable]:
    """All rows of a source; what has to be on disk goes to a folder beside it."""
    source = open_source(SourceSection(path=str(path), **section), Path(path).parent / ".work")
    return [row for chunk in source.chunks(size) for row in chunk.rows()]


def contents(path: Path | str, size: int = 1000) -> list[dict[str, Any]]:
    """The contents of a source that holds nothing unreadable."""
    rows = read(path, size)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.content for row in rows if isinstance(row, Row)]


def problem(path: Path | str) -> str:
    """The one unreadable row of a source, with its place in the folder."""
    (found,) = [row for row in read(path) if isinstance(row, Unreadable)]
    return f"{Path(found.place).name}: {found.problem}"

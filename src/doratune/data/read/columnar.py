"""Parquet and Arrow files, and every other source that comes in Arrow's batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import to_jsonable_python

from doratune.data.read.features import Decode, decoders
from doratune.data.read.rows import MAX_ROW_BYTES, Row, Unreadable, shorten
from doratune.data.read.streams import BLOCK_BYTES, DataFile
from doratune.errors import DataError, DoratuneError

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class Columnar(NamedTuple):
    """Some rows in Arrow's stream format, which holds them alone when pickled; a slice would not."""

    name: str
    first: int
    """Number of the first row, from 1."""
    data: bytes

    def rows(self) -> list[Row | Unreadable]:
        """One for each row, in JSON values.

        Times and decimals become strings, bytes become Base64, NaN and infinity null, and class
        numbers their names.
        """
        with arrow_errors(self.name):
            batch = pa.ipc.open_stream(self.data).read_next_batch()
            names, decode = batch.schema.names, decoders(batch.schema)
            columns = [_values(batch.column(name), decode.get(name)) for name in names]
        return [
            Row(dict(zip(names, values, strict=True)), f"{self.name}:row {number}")
            for number, values in enumerate(zip(*columns, strict=True), self.first)
        ]


def read_columnar(file: DataFile, work: Path, size: int) -> Iterator[Columnar]:
    """Cuts a Parquet or Arrow file into chunks of ``size`` rows at most.

    Raises:
        DataError: The file is damaged.
    """
    with arrow_errors(file.name):
        path = file.unpacked(work)
        batches = _parquet(path, size) if file.kind == "parquet" else _arrow(path, file.name)
        yield from cut(batches, file.name, size)


def cut(batches: Iterator[pa.RecordBatch], name: str, size: int) -> Iterator[Columnar]:
    """Cuts batches into chunks of at most ``size`` rows, and fewer where rows are large.

    Raises:
        DataError: A row is larger than 16 MiB, or a column has no name of its own.
    """
    number = 1
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise DataError(
                f"{name} has two columns of one name among {shorten(', '.join(names))}; rename one."
            )
        # A damaged file may hold anything: text that is not UTF-8, offsets out of range.
        batch.validate(full=True)
        mean = max(1, batch.nbytes // max(1, batch.num_rows))
        step = max(1, min(size, BLOCK_BYTES // mean))
        for start in range(0, batch.num_rows, step):
            part = batch.slice(start, step)
            if part.nbytes > MAX_ROW_BYTES:
                _check_rows(part, f"{name}:row", number)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, part.schema) as writer:
                writer.write_batch(part)
            yield Columnar(name, number, sink.getvalue().to_pybytes())
            number += part.num_rows


@contextmanager
def arrow_errors(name: str) -> Iterator[None]:
    """Names the file in what Arrow raises.

    Raises:
        DataError: Arrow raised something.
    """
    try:
        yield
    except DoratuneError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        first = shorten(str(error).partition("\n")[0].rstrip("."))
        raise DataError(
            f"{name} cannot be read: {first}. It may have been cut or damaged while it was copied; "
            "fetch it again."
        ) from error


def _check_rows(batch: pa.RecordBatch, place: str, first: int) -> None:
    for index in range(batch.num_rows):
        if (num_bytes := batch.slice(index, 1).nbytes) > MAX_ROW_BYTES:
            raise DataError(
                f"{place} {first + index} holds {num_bytes >> 20} MiB; a row may have "
                f"{MAX_ROW_BYTES >> 20} MiB at most. Remove the large column."
            )


def _parquet(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    # buffer_size makes it read a column bit by bit instead of a whole row group of it.
    with pq.ParquetFile(path, buffer_size=BLOCK_BYTES, pre_buffer=False) as file:
        groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
        largest = max((g.total_byte_size // max(1, g.num_rows) for g in groups), default=1)
        rows = max(1, min(size, MAX_ROW_BYTES // max(1, largest)))
        num_rows = 0
        for batch in file.iter_batches(batch_size=rows, use_threads=False):
            num_rows += batch.num_rows
            yield batch
        if num_rows != file.metadata.num_rows:
            raise ValueError(f"{num_rows:,} rows, where its footer says {file.metadata.num_rows:,}")


def _arrow(path: Path, name: str) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as raw:
        start = raw.read(6)
        raw.seek(0)
        if start == b"ARROW1":
            reader = pa.ipc.open_file(raw)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
        elif start.startswith(b"FEA1"):
            raise DataError(f"{name} is a Feather file of version 1; write it as version 2.")
        else:
            yield from pa.ipc.open_stream(raw)
            # A stream that was cut between two batches reads like a whole one, but for its end mark.
            end = raw.tell()
            raw.seek(max(0, end - len(_END_OF_STREAM)))
            if raw.read(len(_END_OF_STREAM)) != _END_OF_STREAM or end != raw.size():
                raise ValueError("the stream does not end where the file ends")


def _values(column: pa.Array, decode: Decode | None) -> list[Any]:
    """A column in JSON values."""
    values = column.to_pylist()
    if decode is not None:
        values = [decode(value) for value in values]
    elif _is_json(column.type):
        return values
    return to_jsonable_python(values, bytes_mode="base64", inf_nan_mode="null", fallback=str)


def _is_json(kind: pa.DataType) -> bool:
    """Whether all values of a type are JSON values as they are."""
    types: list[Callable[[pa.DataType], bool]] = [
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_null,
    ]
    if pa.types.is_struct(kind):
        return all(_is_json(kind.field(n).type) for n in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_json(kind.value_type)
    return any(check(kind) for check in types)

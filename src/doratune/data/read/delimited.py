"""CSV and TSV: a header and rows of fields, quoted where they hold delimiters or line ends."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from doratune.data.read.rows import (
    MAX_RAW,
    MAX_ROW_BYTES,
    Row,
    Unreadable,
    excerpt,
    shorten,
    too_large,
    unreadable,
)
from doratune.data.read.streams import BLOCK_BYTES, DataFile
from doratune.errors import DataError

# Of the whole process; its default of 128 KiB is less than a long document.
csv.field_size_limit(MAX_ROW_BYTES)

# What the csv module says, and what a user can do.
_REMEDIES = {
    "expected after '": "text follows a closing quote; write a quote within a field twice, and put "
    "the whole field in quotes",
    "new-line character seen": "a carriage return stands within the line; end lines with a line "
    "feed, or put the field in quotes",
}


class Record(NamedTuple):
    """The fields of one row and the number of the line it starts on."""

    line: int
    fields: list[str]


class Delimited(NamedTuple):
    """Some records of a CSV or TSV file."""

    name: str
    header: tuple[str, ...]
    records: list[Record | Unreadable]

    def rows(self) -> list[Row | Unreadable]:
        """One for each record. All values are strings, and an empty one is null."""
        return [r if isinstance(r, Unreadable) else self._row(r) for r in self.records]

    def _row(self, record: Record) -> Row | Unreadable:
        line, fields = record
        place = f"{self.name}:{line}"
        if len(fields) != len(self.header):
            found = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
            problem = (
                f"found {found}, the last {excerpt(fields[-1])}; expected {len(self.header)}: "
                f"{shorten(', '.join(self.header))}. Put a field that holds the delimiter in quotes"
            )
            return Unreadable(place, problem, repr(fields)[:MAX_RAW])
        return Row(dict(zip(self.header, [field or None for field in fields], strict=True)), place)


def read_delimited(file: DataFile, size: int) -> Iterator[Delimited]:
    """Cuts a file into chunks of ``size`` records at most.

    Where a record ends is known only to who has parsed all before it, so this parses, too.

    Raises:
        DataError: The header cannot be used, or a quote is never closed.
    """
    lines = _Lines(file)
    records = lines.records("\t" if file.kind == "tsv" else ",")
    first = next(records, None)
    if first is None:
        raise DataError(f"{file.name} is empty; expected a header and rows.")
    header = _header(first, file)
    chunk: list[Record | Unreadable] = []
    start = 0
    for record in records:
        chunk.append(record)
        if len(chunk) == size or lines.num_bytes - start >= BLOCK_BYTES:
            yield Delimited(file.name, header, chunk)
            chunk, start = [], lines.num_bytes
    if chunk:
        yield Delimited(file.name, header, chunk)


class _Lines:
    """The lines of a file as the csv module wants them, and what it would not notice in them."""

    def __init__(self, file: DataFile) -> None:
        self.file = file
        self.num_bytes = 0
        """Of all pieces taken so far."""
        self.first, self.piece = 1, b""
        """Number of the first line of the piece in hand, and its bytes."""
        self.unfit: dict[int, str] = {}
        """Lines that are no text, with what is wrong."""
        self.start, self.pieces = 1, 0
        """The line that the record in hand starts on, and the pieces taken for it."""

    def records(self, delimiter: str) -> Iterator[Record | Unreadable]:
        """All records that are not blank.

        Raises:
            DataError: A field is too large, or the file ends within one.
        """
        reader = csv.reader(self._texts(), delimiter=delimiter, strict=True)
        while True:
            start = self.start = reader.line_num + 1
            self.pieces = 0
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield self._refused(str(error), start, reader.line_num)
                continue
            if self.unfit:
                numbers = range(start, reader.line_num + 1)
                problems = [self.unfit.pop(n) for n in numbers if n in self.unfit]
                if problems:
                    raw = delimiter.join(fields).encode()
                    yield unreadable(f"{self.file.name}:{start}", problems[0], raw)
                    continue
            if fields:
                yield Record(start, fields)

    def _texts(self) -> Iterator[str]:
        for first, piece in self.file.whole_lines():
            self.first, self.piece = first, piece
            self.num_bytes += len(piece)
            self.pieces += 1
            # Larger than any record may be, though no field of it is.
            if self.pieces * BLOCK_BYTES > MAX_ROW_BYTES + 2 * BLOCK_BYTES:
                raise too_large(f"{self.file.name}:{self.start}", "record")
            try:
                text = self.piece.decode()
            except UnicodeDecodeError:
                text = self.piece.decode(errors="replace")
                self._note("UTF-8", self.piece.split(b"\n"))
            if b"\0" in self.piece:
                self._note("NUL", self.piece.split(b"\n"))
            # Nothing but a line feed ends a line here; the csv module itself knows of "\r\n".
            yield from io.StringIO(text, newline="\n")

    def _note(self, what: str, lines: list[bytes]) -> None:
        """Notes the lines that are not UTF-8 or hold a NUL."""
        for number, line in enumerate(lines, self.first):
            if what == "NUL" and b"\0" in line:
                at = line.index(b"\0")
                problem = "holds a NUL byte"
            else:
                try:
                    line.decode()
                    continue
                except UnicodeDecodeError as error:
                    at = error.start
                    problem = f"not UTF-8 (save the file as UTF-8): byte 0x{line[at]:02x}"
            column = len(line[:at].decode(errors="replace")) + 1
            self.unfit.setdefault(number, f"{problem} at line {number:,}, column {column:,}")

    def _refused(self, message: str, start: int, line: int) -> Unreadable:
        """What the csv module refused in the record that starts on line ``start``.

        Raises:
            DataError: A quote is never closed, and nothing says where the next record would start.
        """
        place = f"{self.file.name}:{start}"
        if message == "unexpected end of data":
            raise DataError(
                f"{place}: a quote opens in the record that starts here and never closes; close it, "
                "or write a quote that belongs to the text twice."
            )
        if message.startswith("field larger than"):
            raise too_large(place, "record")
        problem = next((why for part, why in _REMEDIES.items() if part in message), message)
        raw = self.piece.split(b"\n")[max(0, line - self.first)]
        return unreadable(place, f"not {self.file.kind.upper()}: {problem}, at line {line:,}", raw)


def _header(record: Record | Unreadable, file: DataFile) -> tuple[str, ...]:
    """The names of the columns, without white space around them.

    Raises:
        DataError: Not every column has a name of its own.
    """
    if isinstance(record, Unreadable):
        raise DataError(f"{record.place}: {record.problem}. Expected a header.")
    names = tuple(field.strip() for field in record.fields)
    place = f"{file.name}:{record.line}"
    twice = [name for name, count in Counter(names).items() if count > 1]
    if "" in names:
        raise DataError(
            f"{place}: column {names.index('') + 1} of the header has no name; expected a name for "
            f"each of the {len(names)} columns."
        )
    if twice:
        twice_named = repr(shorten(twice[0]))
        raise DataError(f"{place}: the header names {twice_named} twice; rename one of them.")
    delimiter = "\t" if file.kind == "tsv" else ","
    other = next((d for d in (",", "\t", ";", "|") if d != delimiter and d in names[0]), None)
    if len(names) == 1 and other is not None:
        raise DataError(
            f"{place}: the header is one column, {shorten(names[0])!r}; expected columns separated by "
            f"{delimiter!r}, and {other!r} seems to separate them. Save it as a "
            f"{file.kind.upper()} file{', or name it .tsv' if other == chr(9) else ''}."
        )
    return names

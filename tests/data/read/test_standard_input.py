from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from doratune.data.read import Row, Unreadable, open_source
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
from tests.data.read.sources import arrow, packed, parquet


def pipe(data: bytes, monkeypatch: pytest.MonkeyPatch, is_terminal: bool = False) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: is_terminal, closed=False)
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.mark.parametrize(
    ("data", "kind", "place"),
    [
        (b'\n{"a": "1"}\n', "jsonl", "stdin:2"),
        (b'\xef\xbb\xbf{"a": "1"}\n', "jsonl", "stdin:1"),
        (packed(b'{"a": "1"}', ".gz"), "jsonl", "stdin:1"),
        (packed(b'{"a": "1"}', ".zst"), "jsonl", "stdin:1"),
        (b' [{"a": "1"}]', "json", "stdin[0]"),
        (b"a,b\n1,\n", "csv", "stdin:2"),
        (b"a\tb, c\n1\t\n", "tsv", "stdin:2"),
        (parquet(pa.table({"a": ["1"]})), "parquet", "stdin:row 1"),
        (arrow(pa.table({"a": ["1"]})), "arrow", "stdin:row 1"),
        (packed(arrow(pa.table({"a": ["1"]}), "file"), ".zst"), "arrow", "stdin:row 1"),
    ],
)
def test_the_kind_is_seen_from_the_start(
    data: bytes, kind: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(data, monkeypatch)
    source = open_source(SourceSection(path="-"), tmp_path / "work")
    for _ in range(2):  # it was spooled, and can be read again
        (row,) = [row for chunk in source.chunks(10) for row in chunk.rows()]
        assert isinstance(row, Row)
        assert (source.kind, row.place, row.content["a"]) == (kind, place, "1")


def test_what_is_neither_is_read_as_json_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(b"hello\n", monkeypatch)
    (chunk,) = open_source(SourceSection(path="-"), tmp_path).chunks(10)
    assert isinstance(chunk.rows()[0], Unreadable)


def test_a_terminal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(b"", monkeypatch, is_terminal=True)
    with pytest.raises(DataError, match=r"Standard input is a terminal.*Pipe a file in: `doratune"):
        open_source(SourceSection(path="-"), tmp_path)


def test_no_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(b"", monkeypatch)
    with pytest.raises(DataError, match=r"Standard input is empty.*only one source may be '-'"):
        open_source(SourceSection(path="-"), tmp_path)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match=r"Standard input is closed.*pipe a file in"):
        open_source(SourceSection(path="-"), tmp_path)


def test_input_that_breaks_off_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(packed(b'{"a": "1"}', ".gz")[:-5], monkeypatch)
    with pytest.raises(DataError, match=r"stdin is not a whole gzip file: Truncated"):
        open_source(SourceSection(path="-"), tmp_path)

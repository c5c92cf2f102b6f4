from __future__ import annotations

import datetime
import gzip
import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from doratune.data.read import Row, open_source
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
from tests.data.read.sources import arrow, contents, parquet, read, write

ROWS: list[dict[str, Any]] = [
    {"text": "é", "n": 1, "messages": [{"role": "user", "content": "x"}], "flag": True},
    {"text": None, "n": None, "messages": [], "flag": None},
]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_reads_rows_with_their_numbers(tmp_path: Path, name: str, packing: str) -> None:
    table = pa.Table.from_pylist(ROWS)
    made = {
        "a.parquet": parquet(table),
        "a.arrow": arrow(table),
        "a.feather": arrow(table, "file"),
    }
    path = write(tmp_path / (name + packing), made[name])
    assert read(path) == [Row(row, f"{path}:row {n}") for n, row in enumerate(ROWS, 1)]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_rows_keep_their_numbers_in_chunks(tmp_path: Path, name: str) -> None:
    table = pa.table({"n": range(1, 1001), "text": ["x" * 10] * 1000})
    data = parquet(table, row_group_size=300) if name == "a.parquet" else arrow(table, rows=300)
    path = write(tmp_path / name, data)
    source = open_source(SourceSection(path=str(path)), tmp_path)
    chunks = [pickle.dumps(chunk) for chunk in source.chunks(7)]
    assert max(map(len, chunks)) < 1500  # a chunk carries its own rows only
    rows = [row for chunk in chunks for row in pickle.loads(chunk).rows()]
    assert [(row.content["n"], row.place) for row in rows] == [
        (n, f"{path}:row {n}") for n in range(1, 1001)
    ]


def test_values_become_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "time": [datetime.datetime(2026, 1, 2, 3, 4, 5)],
            "price": [Decimal("1.50")],
            "float": [float("nan")],
            "bytes": [b"\xff\x00"],
            "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())),
            "kind": pa.array(["x"]).dictionary_encode(),
            "nested": [{"list": [float("inf"), 1.5]}],
        }
    )
    for name, data in (("a.parquet", parquet(table)), ("a.arrow", arrow(table))):
        (row,) = contents(write(tmp_path / name, data))
        assert row == {
            "time": "2026-01-02T03:04:05",
            "price": "1.50",
            "float": None,
            "bytes": "_wA=",
            "map": [["a", 1]],
            "kind": "x",
            "nested": {"list": [None, 1.5]},
        }
        json.dumps(row, allow_nan=False)


def test_class_numbers_and_json_texts_are_read_as_datasets_means_them(tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_dict(
        {
            "label": [0, 1, -1, None],
            "labels": [[1], [], [0, 1], None],
            "meta": [{"kind": 1}] * 4,
            "extra": [{"a": 1}, [2], "x", None],
        },
        features=datasets.Features(
            label=datasets.ClassLabel(names=["no", "yes"]),
            labels=datasets.List(datasets.ClassLabel(names=["no", "yes"])),
            meta={"kind": datasets.ClassLabel(names=["no", "yes"])},
            extra=datasets.Json(),
        ),
    )
    path = tmp_path / "a.parquet"
    made.to_parquet(path)
    rows = contents(path)
    assert [row["label"] for row in rows] == ["no", "yes", None, None]
    assert [row["labels"] for row in rows] == [["yes"], [], ["no", "yes"], None]
    assert rows[0]["meta"] == {"kind": "yes"}
    assert [row["extra"] for row in rows] == [{"a": 1}, [2], "x", None]


def test_notes_of_other_writers_are_not_taken_for_those_of_datasets(tmp_path: Path) -> None:
    for noted in (b"{", b"[]", b'{"info": {"features": 7}}', b'{"info": {"features": {"a": 1}}}'):
        table = pa.table({"a": [1]}).replace_schema_metadata({b"huggingface": noted})
        assert contents(write(tmp_path / "a.parquet", parquet(table))) == [{"a": 1}]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.parquet", b"hello, world", r"cannot be read: Parquet magic bytes not found in footer"),
        ("a.parquet", parquet(pa.table({"a": [1]}))[:-20], r"cannot be read: .*fetch it again"),
        ("a.parquet", parquet(pa.table({"a": pa.array([], "int8")})), r"parquet holds no rows"),
        ("a.arrow", arrow(pa.table({"a": range(100)}))[:-8], r"the stream does not end where the"),
        ("a.arrow", arrow(pa.table({"a": range(100)}))[:-30], r"Expected to be able to read 800"),
        (
            "a.arrow",
            arrow(pa.table({"a": [1]})) * 2,
            r"the stream does not end where the file ends",
        ),
        ("a.arrow", arrow(pa.table({"a": [1]}), "file")[:-3], r"cannot be read: Not an Arrow file"),
        ("a.arrow", b"hello, world", r"a\.arrow cannot be read: "),
        ("a.feather", b"FEA1....FEA1", r"Feather file of version 1; write it as version 2"),
    ],
)
def test_refuses_what_is_damaged(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read(write(tmp_path / name, data))


def test_refuses_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(DataError, match=r"two columns of one name among a, a; rename"):
        read(write(tmp_path / "a.arrow", arrow(table)))


def test_refuses_text_that_is_not_utf8(tmp_path: Path) -> None:
    text = pa.array([b"fine", b"\xff"]).view(pa.string())
    for name, data in (
        ("a.parquet", parquet(pa.table({"a": text}))),
        ("a.arrow", arrow(pa.table({"a": text}))),
    ):
        with pytest.raises(DataError, match=r"cannot be read: .*Invalid UTF8 sequence at string"):
            read(write(tmp_path / name, data))


def test_refuses_a_row_larger_than_16_mib(tmp_path: Path) -> None:
    table = pa.table({"a": ["x", "x" * (17 << 20)]})
    for name, data in (("a.parquet", parquet(table)), ("a.arrow", arrow(table))):
        with pytest.raises(DataError, match=r":row 2 holds 17 MiB; a row may have 16 MiB at most"):
            read(write(tmp_path / name, data))


def test_a_cut_compressed_file_is_refused_before_any_row(tmp_path: Path) -> None:
    table = pa.table({"a": [f"{n:x}" for n in range(10_000)]})
    data = gzip.compress(parquet(table, compression="none"))
    (tmp_path / "a.parquet.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"not a whole gzip file: Truncated .* after \d.* bytes of"):
        read(tmp_path / "a.parquet.gz")
    assert list((tmp_path / ".work").iterdir()) == []

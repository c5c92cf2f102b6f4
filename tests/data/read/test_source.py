from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from doratune.data.clauses import clauses
from doratune.data.read import Row, open_source, refuse
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
from doratune.record.files import digest_json
from tests.data.read.sources import packed, read, write


def test_kind_weight_and_digest_are_those_of_the_file(tmp_path: Path) -> None:
    for name, kind in (("a.jsonl.gz", "jsonl"), ("b.csv", "csv"), ("c.tsv.zst", "tsv")):
        path = write(tmp_path / name, "a,b\n1,2\n")
        source = open_source(SourceSection(path=str(path), weight=2.0), tmp_path)
        assert (source.path, source.kind, source.weight) == (str(path), kind, 2.0)
        assert source.digest() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_several_compressed_streams_in_one_file_are_one_text(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(packed(b'{"a": 1}\n{"a"', packing) + packed(b": 2}\n", packing))
    assert [row.content["a"] for row in read(path) if isinstance(row, Row)] == [1, 2]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("cut", [1, 9, 1000, 100_000])
def test_a_cut_file_is_refused_with_the_place(tmp_path: Path, packing: str, cut: int) -> None:
    lines = b"".join(
        b'{"a": "%s"}\n' % random.Random(n).randbytes(50).hex().encode() for n in range(15_000)
    )
    whole = packed(lines, packing)
    (tmp_path / f"a.jsonl{packing}").write_bytes(whole[:-cut])
    with pytest.raises(DataError, match=r"a whole \w+ file: Truncated .*after \d.* lines and \d"):
        read(tmp_path / f"a.jsonl{packing}")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b'{"a": 1}\n' * 1000, mtime=0))
    whole[-6] ^= 1  # of the checksum
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    with pytest.raises(DataError, match=r"not a whole gzip file: .*incorrect data check"):
        read(tmp_path / "a.jsonl.gz")


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", b"", r"a\.jsonl is empty; at least one example is needed"),
        ("a.jsonl.gz", b"", r"a\.jsonl\.gz is empty; at least one example is needed"),
        ("a.jsonl", b" \n\n", r"a\.jsonl holds no rows; at least one example is needed"),
        ("a.jsonl.gz", gzip.compress(b"\n", mtime=0), r"a\.jsonl\.gz holds no rows; at least one"),
        ("a.jsonl.gz", b'{"a": 1}\n', r"not a gzip file: it starts with b'\{\"a\": 1\}'\. Name it"),
        ("a.jsonl.zst", gzip.compress(b"{}", mtime=0), r"not a zstd file: .*, as gzip does"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), r"a\.jsonl is not jsonl text: .*, as gzip does"),
        ("a.csv", b"PAR1....PAR1", r"a\.csv is not csv text: .*, as Parquet does"),
        ("a.csv", "a,b".encode("utf-16"), r"a\.csv is UTF-16 text; save it as UTF-8"),
        (
            "a.txt",
            b"a,b",
            r"'.*a\.txt' is of no known kind; its name should end with \.jsonl, .*\.zst",
        ),
    ],
)
def test_refuses(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=expected):
        read(tmp_path / name)


def test_a_missing_file_is_answered_with_near_names(tmp_path: Path) -> None:
    write(tmp_path / "clauses.train.jsonl", "{}")
    write(tmp_path / "clauses.notes", "{}")
    with pytest.raises(
        DataError, match=r"no data file .*Did you mean '\S*clauses\.train\.jsonl'\?$"
    ):
        read(tmp_path / "clause.train.jsonl")
    with pytest.raises(DataError, match=r"the folder '.*nowhere' does not exist.*org/name"):
        read(tmp_path / "nowhere" / "a.jsonl")
    with pytest.raises(
        DataError, match=r"There is no data file 'a\.jsonl'\. Paths are relative to"
    ):
        read("a.jsonl")
    with pytest.raises(DataError, match=r"There is no data file 'nowhere/a\.jsonl': the folder"):
        read("nowhere/a.jsonl")


def test_a_path_that_only_looks_like_a_hub_dataset_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.jsonl", '{"a": 1}')
    assert read("data/train.jsonl") == [Row({"a": 1}, "data/train.jsonl:1")]
    with pytest.raises(
        DataError, match=r"no data file 'data/train'. Did you mean 'data/train\.jsonl"
    ):
        read("data/train")
    with pytest.raises(
        DataError, match=r"The hub dataset 'date/train' \(split 'train'\) cannot be"
    ):
        read("date/train")


def test_a_home_folder_may_be_written_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", '{"a": 1}')
    assert read("~/a.jsonl") == [Row({"a": 1}, "~/a.jsonl:1")]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/dev/null is neither a file nor a folder"):
        read("/dev/null")
    with pytest.raises(DataError, match=r"aaa\.jsonl' cannot be looked up: File name too long"):
        read(tmp_path / ("a" * 300 + ".jsonl"))
    with pytest.raises(DataError, match=r"'a\\x00\.jsonl' cannot be looked up: embedded null byte"):
        read("a\0.jsonl")
    with pytest.raises(DataError, match=r"There is no data file .*/null/a\.jsonl'"):
        read("/dev/null/a.jsonl")


@pytest.mark.parametrize("words", [{"split": "test"}, {"config": "en"}, {"revision": "main"}])
def test_words_for_hub_datasets_are_refused_elsewhere(
    tmp_path: Path, words: dict[str, Any]
) -> None:
    ((key, value),) = words.items()
    path = write(tmp_path / "a.jsonl", "{}")
    with pytest.raises(DataError, match=rf"is a file and has no {key}; {key} '{value}' is for hub"):
        read(path, **words)
    with pytest.raises(
        DataError, match=rf"is built in and has no {key}; {key} '{value}' is for hub"
    ):
        read("builtin:clauses", **words)


def test_builtin_clauses_come_with_their_groups() -> None:
    rows = read("builtin:clauses", size=100)
    assert len(rows) == 612
    assert isinstance(rows[0], Row)
    assert rows[0].place == "builtin:clauses:1"
    assert rows[0].group == rows[0].content["group"]
    source = open_source(SourceSection(path="builtin:clauses"), Path())
    assert source.digest() == digest_json(clauses())
    with pytest.raises(DataError, match=r"There is no 'builtin:x'\. Built in are: builtin:clauses"):
        read("builtin:x")


def test_a_source_can_be_read_again(tmp_path: Path) -> None:
    source = open_source(SourceSection(path=str(write(tmp_path / "a.csv", "a\n1\n2\n"))), tmp_path)
    first, second = ([r for c in source.chunks(1) for r in c.rows()] for _ in range(2))
    assert first == second
    assert len(first) == 2


def test_problems_are_listed_up_to_five_and_counted() -> None:
    refuse([], "The data")
    with pytest.raises(DataError) as caught:
        refuse([f"a.jsonl:{n}: bad" for n in range(1, 1009)], "The data")
    lines = str(caught.value).splitlines()
    assert lines[0] == "The data has 1,008 problems:"
    assert lines[1:] == [f"  a.jsonl:{n}: bad" for n in range(1, 6)] + ["  and 1,003 more"]
    with pytest.raises(DataError, match=r"^The data has 1 problem:\n  one$"):
        refuse(["one"], "The data")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("legal/cuad_clauses.train.jsonl.gz", 9_718),
        ("legal/cuad_clauses.test.jsonl.gz", 2_132),
        ("commonsense/ARC-Easy.test.jsonl.gz", 2_376),
        ("instruct/chat_sgd_5k.jsonl.gz", 5_000),
    ],
)
def test_reads_real_files_whole(shared_data: Path, name: str, rows: int) -> None:
    """Row counts as published beside the files."""
    found = read(shared_data / name)
    assert len(found) == rows
    assert all(isinstance(row, Row) for row in found)

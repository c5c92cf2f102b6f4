from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from doratune.data.load import load_rows
from doratune.errors import DataError


def write(path: Path, data: str | bytes) -> Path:
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_reads_json_lines_with_their_places(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, '\ufeff{"a": "é"}\r\n\n{"a": 2}')
    assert [(row.content, row.place) for row in load_rows(path)] == [
        ({"a": "é"}, f"{path}:1"),
        ({"a": 2}, f"{path}:3"),
    ]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_reads_a_json_list(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, '[\n {"a": 1},\n {"a": 2}\n]')
    rows = [(row.content, row.place) for row in load_rows(path)]
    assert rows == [({"a": 1}, f"{path}[0]"), ({"a": 2}, f"{path}[1]")]


def test_a_line_separator_within_a_string_ends_no_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": "one\u2028two\u0085three"}\n')
    assert load_rows(path)[0].content == {"a": "one\u2028two\u0085three"}


def test_names_the_broken_line_and_the_place_in_it(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"clause {n}", "label": "x"}) for n in range(1, 5001)]
    lines[4710] = '{"text": "clause 4711", "label" "x"}'
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    with pytest.raises(DataError, match=r"a\.jsonl:4711: not JSON.* at column 33, near .*\"x\"\}"):
        load_rows(path)


def test_lists_five_broken_lines_and_counts_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n' + "{\n" * 8)
    with pytest.raises(DataError) as caught:
        load_rows(path)
    message = str(caught.value)
    assert "has 8 problems" in message
    assert [f"a.jsonl:{n}:" in message for n in range(1, 10)] == [False] + [True] * 5 + [False] * 3
    assert message.endswith("and 3 more")


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.jsonl", "", r"a\.jsonl is empty"),
        ("a.jsonl", " \n\n", r"a\.jsonl is empty"),
        ("a.json", "[]", r"a\.json holds an empty list"),
        ("a.jsonl", '{"a": 1}\n[1, 2]', r"a\.jsonl:2: expected a JSON object, found '\[1, 2\]'"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}', r"a\.jsonl:2: not UTF-8: byte 0xe9 at column 8"),
        ("a.json", b'[{"a": 1},\n{"a": "\xe9"}]', r"a\.json:2: not UTF-8: byte 0xe9 at column 8"),
        ("a.json", '[{"a": 1},\n{"a" 2}]', r"a\.json:2: not JSON: .* at column 6"),
        ("a.json", '{"a": 1}', r"holds a JSON dict; expected a list.*name the file \.jsonl"),
        ("a.json", '{"a": 1}\n{"a": 2}', r"Extra data.*one object a line, name it \.jsonl"),
        ("a.json", '[{"a": 1}, 7]', r"a\.json\[1\]: expected a JSON object, found '7'"),
        ("a.csv", "a,b", r"ends with '\.csv'.*\.jsonl, \.jsonl\.gz, \.json, \.json\.gz"),
        ("a.jsonl", r'{"a": "\ud800"}', r"a\.jsonl:1: holds half a surrogate pair, U\+D800"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: not JSON that can be read"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", r"a\.jsonl:1: not JSON that can be read.*4300"),
    ],
)
def test_refuses(tmp_path: Path, name: str, data: str | bytes, match: str) -> None:
    with pytest.raises(DataError, match=match):
        load_rows(write(tmp_path / name, data))


def test_refuses_half_a_gzip_file(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is not a whole gzip file"):
        load_rows(tmp_path / "a.jsonl.gz")
    (tmp_path / "b.jsonl.gz").write_bytes(b'{"a": 1}\n')
    with pytest.raises(DataError, match=r"b\.jsonl\.gz is not a whole gzip file: Not a gzipped"):
        load_rows(tmp_path / "b.jsonl.gz")


def test_a_missing_file_is_answered_with_near_names(tmp_path: Path) -> None:
    write(tmp_path / "clauses.train.jsonl", "{}")
    with pytest.raises(
        DataError, match=r"no data file .*clause\.train.*Did you mean .*clauses\.tr"
    ):
        load_rows(tmp_path / "clause.train.jsonl")
    with pytest.raises(DataError, match=r"the folder '.*nowhere' does not exist"):
        load_rows(tmp_path / "nowhere" / "a.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=r"folder\.jsonl cannot be read: Is a directory"):
        load_rows(tmp_path / "folder.jsonl")


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
    assert len(load_rows(shared_data / name)) == rows

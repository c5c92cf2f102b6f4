from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doratune.data.read import Row, Unreadable
from doratune.errors import DataError
from tests.data.read.sources import contents, read, write


def test_reads_elements_with_their_indices(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '\ufeff[\n {"a": "é"},\r\n{"a": {"b": [1, 2]}}\n]\n')
    expected = [Row({"a": "é"}, f"{path}[0]"), Row({"a": {"b": [1, 2]}}, f"{path}[1]")]
    assert read(path) == expected


@pytest.mark.parametrize("indent", [None, 2])
def test_elements_may_cross_the_borders_of_blocks(tmp_path: Path, indent: int | None) -> None:
    made: list[dict[str, Any]] = [{"n": n, "t": "é" * (n % 1200), "s": [{}]} for n in range(1500)]
    path = write(tmp_path / "a.json", json.dumps(made, indent=indent, ensure_ascii=False))
    assert path.stat().st_size > 1 << 20
    assert contents(path, size=100) == made


def test_a_number_may_cross_the_border_of_a_block(tmp_path: Path) -> None:
    text = "[{}," + " " * ((1 << 20) - 7) + "123456, {}]"
    _, number, _ = read(write(tmp_path / "a.json", text))
    assert isinstance(number, Unreadable)
    assert number.raw == "123456"


def test_a_broken_element_leaves_the_others(tmp_path: Path) -> None:
    text = '[\n {"a": 1},\n {"a": 2,\n  "a": 3}, {"b": NaN}, 7, "x", null, {"é": "\\ud800"}, {}]'
    rows = read(write(tmp_path / "a.json", text))
    found = [f"{r.place[-3:]} {'ok' if isinstance(r, Row) else r.problem}" for r in rows]
    assert found == [
        "[0] ok",
        '[1] the key "a" is given twice, the second time before line 4, column 7, near '
        '\'{"a": 2,\\n  "a": 3}\'; remove one',
        "[2] not JSON: NaN and Infinity are no JSON numbers (use null) at line 4, column 18, near "
        "'{\"b\": NaN}'",
        "[3] expected a JSON object, found '7'",
        "[4] expected a JSON object, found '\"x\"'",
        "[5] expected a JSON object, found 'null'",
        "[6] half a surrogate pair, which is no character, before line 4, column 51, near "
        '\'{"é": "\\\\ud800"}\'',
        "[7] ok",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"a\.json is empty; at least one example is needed"),
        (" \n ", r"a\.json is empty; at least one example is needed"),
        ("[ ]", r"a\.json holds no rows; at least one example is needed"),
        ('{"a": 1}', r"starts with '\{\"a\": 1\}'; expected a JSON list.*name the file \.jsonl"),
        ("hello", r"starts with 'hello'; expected a JSON list of objects"),
        ('[{"a": 1},\n{"a" 2}]', r"json:2: not JSON: Expecting ':' delimiter at column 6, near"),
        ('[{"a": 1}\n{"a": 2}]', r"json:2: not JSON: expected ',' or '\]' after element 0 at col"),
        ('[{"a": 1},\n{"a": 2}', r"json:2: not JSON: expected ',' or '\]' after element 1 at col"),
        ('[{"a": 1},\n', r"json:2: not JSON: Expecting value at column 1"),
        ('[{"a": 1}, ]', r"json:1: not JSON: Expecting value at column 12, near"),
        ('[{"a": 1}]\n[]', r"json:2: not JSON: expected nothing after the list at column 1"),
        ('[{"a": "cut', r"json:1: not JSON: Unterminated string starting at at column 8, near"),
        ("[" * 100_000, r"json:1: nested too deeply at column 2, near"),
        ('[{"a": 1' + "0" * 5000 + "}]", r"json:1: holds an integer of more than 4,300 digits at"),
    ],
)
def test_refuses_what_is_no_list(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read(write(tmp_path / "a.json", text))


def test_says_which_byte_is_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", b'[{"a": 1},\n{"\xc3\xa9": "\xe9"}]')
    with pytest.raises(DataError, match=r"json:2: not UTF-8 .*: byte 0xe9 at column 8, near"):
        read(path)


def test_refuses_an_element_larger_than_16_mib(tmp_path: Path) -> None:
    text = '[{"a": 1},\n{"a": "' + "x" * (17 << 20) + '"}]'
    expected = r"zst:2: .*Unterminated string .*, or more than 16 MiB at column 7"
    with pytest.raises(DataError, match=expected):
        read(write(tmp_path / "a.json.zst", text))
    with pytest.raises(
        DataError, match=r"zst:1: the element that starts here is larger than 16 MiB"
    ):
        read(write(tmp_path / "b.json.zst", "[" + "9," * 2 + "{" + " " * (18 << 20)))

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from doratune.data.read import Row, Unreadable, open_source
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
from tests.data.read.sources import contents, problem, read, write


def test_reads_lines_with_their_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\ufeff{"a": "é"}\r\n\n \t\r\n{"a": 2}')
    assert read(path) == [Row({"a": "é"}, f"{path}:1"), Row({"a": 2}, f"{path}:4")]


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_lines_keep_their_numbers_in_chunks_of_any_size(tmp_path: Path, size: int) -> None:
    # Three blocks of 1 MiB, so that lines cross their borders.
    lines = [json.dumps({"n": n, "text": "x" * 600}) for n in range(1, 5001)]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    source = open_source(SourceSection(path=str(path)), tmp_path)
    chunks = list(source.chunks(size))
    assert max(len(chunk.rows()) for chunk in chunks) <= size
    rows = [row for chunk in chunks for row in pickle.loads(pickle.dumps(chunk)).rows()]
    assert [(row.content["n"], row.place) for row in rows] == [
        (n, f"{path}:{n}") for n in range(1, 5001)
    ]


def test_a_line_separator_within_a_string_ends_no_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": "one\u2028two\u0085three"}\n')
    assert contents(path) == [{"a": "one\u2028two\u0085three"}]


def test_names_the_broken_line_and_the_place_in_it(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"clause {n}", "label": "x"}) for n in range(1, 5001)]
    lines[4710] = '{"text": "clause 4711", "label" "x"}'
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    rows = read(path)
    assert len(rows) == 5000
    assert rows[4710] == Unreadable(
        f"{path}:4711",
        'not JSON: expected `:` at column 33, near \'ause 4711", "label" "x"}\'',
        lines[4710],
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"a": 1, "b": 2, "a": 3}',
            'the key "a" is given twice, the second time before column 22,',
        ),
        (
            '{"a": {"b": 1, "b": 2}}',
            'the key "b" is given twice, the second time before column 20,',
        ),
        ('{"a": NaN}', "not JSON: NaN and Infinity are no JSON numbers (use null) at column 7,"),
        ('{"a": -Infinity}', "not JSON: NaN and Infinity are no JSON numbers (use null) at"),
        ('{"a": 1e999}', "holds a number too large for a float64, such as 1e999"),
        ('{"a": [{"b": -1e999}]}', "holds a number too large for a float64, such as 1e999"),
        ('{"a": "x\0y"}', "not JSON: control character (\\u0000-\\u001F) found while parsing a st"),
        ('\0{"a": 1}', "not JSON: expected value at column 1, near '\\x00{\"a\": 1}'"),
        (
            r'{"é": "\ud800"}',
            "half a surrogate pair, which is no character, before column 14, near",
        ),
        (r'{"a": "\udc00x"}', "half a surrogate pair, which is no character, before column 13,"),
        ("[1, 2]", "expected a JSON object, found '[1, 2]'"),
        ('"text"', "expected a JSON object, found '\"text\"'"),
        ("null", "expected a JSON object, found 'null'"),
        ('{"a": 1} {"a": 2}', 'not JSON: trailing characters at column 10, near \'{"a": 1} {"'),
        ('{"a": "cut', "not JSON: EOF while parsing a string at column 10,"),
        ("{'a': 1}", "not JSON: key must be a string at column 2, near \"{'a': 1}\""),
        ('{"äöü" 1}', "not JSON: expected `:` at column 8, near '{\"äöü\" 1}'"),
        ('{"a": ' * 300, "nested more than 200 levels deep, at column 1,207, near"),
        ("[" * 100_000, "nested more than 200 levels deep, at column 202, near"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON: number out of range at column 4,308, near"),
    ],
)
def test_says_what_is_wrong_with_a_line(tmp_path: Path, line: str, expected: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n' + line + '\n{"a": 2}\n')
    assert problem(path).startswith(f"a.jsonl:2: {expected}")
    assert [row.content for row in read(path) if isinstance(row, Row)] == [{"a": 1}, {"a": 2}]


def test_says_which_byte_is_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"a": 1}\n{"\xc3\xa9": "\xe9"}\n')
    expected = "a.jsonl:2: not UTF-8: byte 0xe9 at column 8; save the file as UTF-8"
    assert problem(path) == expected
    path = write(tmp_path / "b.jsonl", b'{"a": "\xed\xa0\x80"}')  # a surrogate, encoded
    assert problem(path).startswith("b.jsonl:1: not UTF-8: byte 0xed at column 8;")


def test_keeps_no_more_than_the_start_of_an_unreadable_line(tmp_path: Path) -> None:
    (row,) = read(write(tmp_path / "a.jsonl", '{"ä' + "ä" * 100_000))
    assert isinstance(row, Unreadable)
    assert row.raw == '{"ä' + "ä" * 997
    assert len(row.problem) < 200


def test_refuses_a_line_larger_than_16_mib(tmp_path: Path) -> None:
    line = b'{"a": "' + b"x" * (16 << 20) + b'"}'
    path = write(tmp_path / "a.jsonl.zst", b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"zst:2: the line that starts here is larger than 16 MiB"):
        read(path)
    fits = b'{"a": "' + b"x" * ((16 << 20) - 9) + b'"}'
    path = write(tmp_path / "b.jsonl.zst", b'{"a": 1}\n' + fits + b'\n{"a": 2}\n')
    assert len(read(path)) == 3

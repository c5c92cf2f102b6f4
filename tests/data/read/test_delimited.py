from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from doratune.data.read import Row, Unreadable
from doratune.errors import DataError
from tests.data.read.sources import contents, problem, read, write


def test_reads_rows_with_the_line_they_start_on(tmp_path: Path) -> None:
    text = '\ufefftext, label\r\n"a, ""b""\r\nc",x\r\n\r\nd,\r\n"",é\r\n'
    path = write(tmp_path / "a.csv", text)
    assert read(path) == [
        Row({"text": 'a, "b"\r\nc', "label": "x"}, f"{path}:2"),
        Row({"text": "d", "label": None}, f"{path}:5"),
        Row({"text": None, "label": "é"}, f"{path}:6"),
    ]


def test_tab_separated_fields_may_hold_commas(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\na, "b", c\tx\n"tab\there"\ty\n')
    assert [list(c.values()) for c in contents(path)] == [['a, "b", c', "x"], ["tab\there", "y"]]


@pytest.mark.parametrize("size", [1, 1000])
def test_quoted_line_ends_may_cross_the_borders_of_blocks(tmp_path: Path, size: int) -> None:
    sink = io.StringIO()
    made = [[f'{n}, "x"\n' * (n % 300), "é\r\n\n"] for n in range(1, 2001)]
    csv.writer(sink).writerows([["a", "b"], *made])
    path = write(tmp_path / "a.csv", sink.getvalue())
    assert path.stat().st_size > 2 << 20
    rows = read(path, size)
    assert [list(row.content.values()) for row in rows] == [[a or None, b] for a, b in made]
    lines = sink.getvalue().split("\n")
    for row, (text, _) in zip(rows[1::300], made[1::300], strict=True):
        number = int(row.place.rpartition(":")[2])
        assert lines[number - 1].startswith('"' + text.partition(",")[0])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a,b,c", "found 3 fields, the last 'c'; expected 2: text, label. Put a field that holds"),
        ("a", "found 1 field, the last 'a'; expected 2: text, label."),
        ('"a" b,c', "not CSV: text follows a closing quote; write a quote within a field twice"),
        ("a,b\rc", "not CSV: a carriage return stands within the line; end lines with a line feed"),
        ("é,b\0", "holds a NUL byte at line 2, column 4"),
    ],
)
def test_says_what_is_wrong_with_a_row(tmp_path: Path, line: str, expected: str) -> None:
    path = write(tmp_path / "a.csv", f"text,label\n{line}\nx,y\n")
    assert problem(path).startswith(f"a.csv:2: {expected}")
    assert read(path)[1] == Row({"text": "x", "label": "y"}, f"{path}:3")


def test_says_which_byte_is_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"a\nbé",c\n\nx,y\n'.encode("latin-1"))
    expected = "a.csv:2: not UTF-8 (save the file as UTF-8): byte 0xe9 at line 3, column 2"
    assert problem(path) == expected
    assert isinstance(read(path)[0], Unreadable)
    assert read(path)[1] == Row({"text": "x", "label": "y"}, f"{path}:5")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "\n\n", r"a\.csv is empty; expected a header and rows"),
        ("a.csv", "text,label\n", r"a\.csv holds no rows; at least one example is needed"),
        ("a.csv", "text,,label\na,b,c\n", r"csv:1: column 2 of the header has no name"),
        ("a.csv", "\ntext,text\na,b\n", r"csv:2: the header names 'text' twice; rename one"),
        ("a.csv", "text;label\na;b\n", r"csv:1: the header is one column, 'text;label'; .*';'"),
        ("a.csv", "text\tlabel\na\tb\n", r"one column.*'\\t' seems to separate.*or name it \.tsv"),
        ("a.tsv", "text,label\na,b\n", r"one column, 'text,label'; .*separated by '\\t'"),
        ("a.csv", 'a,b\nc,d\ne,"f\ng,h\n', r"csv:3: a quote opens in the record that starts here"),
        ("a.csv", '"a"x,b\nc,d\n', r"csv:1: not CSV: text follows .*Expected a header"),
        ("a.csv", "a,b\rc,d\r", r"csv:1: not CSV: a carriage return .*Expected a header"),
    ],
)
def test_refuses(tmp_path: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read(write(tmp_path / name, text))


def test_refuses_a_quote_that_swallows_16_mib(tmp_path: Path) -> None:
    text = 'a,b\nc,"d\n' + "e,f and more of it\n" * 1_000_000
    expected = r"zst:2: the record that starts here is larger than 16 MiB.*a closing quote missing"
    with pytest.raises(DataError, match=expected):
        read(write(tmp_path / "a.csv.zst", text))


def test_refuses_a_record_of_endless_small_fields(tmp_path: Path) -> None:
    text = 'a,b\nc,d\n"e\n' + '","\n' * 6_000_000
    with pytest.raises(
        DataError, match=r"zst:3: the record that starts here is larger than 16 MiB"
    ):
        read(write(tmp_path / "a.csv.zst", text))


def test_a_message_shows_only_the_start_of_a_wild_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",".join(f"column {n}" for n in range(1000)) + "\na\n")
    assert len(problem(path)) < 300
    name = "x" * 10_000
    for header in (f"{name},{name}", f"{name};"):
        with pytest.raises(DataError) as caught:
            read(write(tmp_path / "a.csv", f"{header}\na,b\n"))
        assert len(str(caught.value)) < 500


def test_a_field_may_be_long(tmp_path: Path) -> None:
    """The csv module's own limit is 128 KiB."""
    path = write(tmp_path / "a.csv", f"text,label\n{'x' * 1_000_000},y\n")
    assert contents(path) == [{"text": "x" * 1_000_000, "label": "y"}]

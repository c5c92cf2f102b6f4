from __future__ import annotations

from pathlib import Path

import pytest

from doratune.data.texts import read_texts
from doratune.errors import DataError
from tests.evaluate.benchmarks.exams import write_lines


def write(path: Path, rows: list[dict[str, object]]) -> str:
    write_lines(path, rows)
    return str(path)


def test_a_column_of_texts_is_read_whatever_else_there_is(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"Text {n}.", "url": "x"} for n in range(5)]
    source = write(tmp_path / "t.jsonl.gz", [*rows, {"text": "  ", "url": "x"}])
    texts = read_texts(source, None, 0)
    assert [text.content for text in texts] == [f"Text {n}." for n in range(5)]
    assert texts[2].place == f"{source}:3"


def test_conversations_are_read_turn_after_turn(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"instruction": "Say hello.", "input": "", "output": "Hello!"},
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    ]
    texts = read_texts(write(tmp_path / "t.jsonl", rows), None, 0)
    assert [text.content for text in texts] == ["Say hello.\nHello!", "Add.\n\n1 and 2\n3"]


def test_a_subset_is_chosen_by_hash(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"Text {n}."} for n in range(30)]
    source = write(tmp_path / "t.jsonl", rows)
    few = {text.content for text in read_texts(source, 10, 0)}
    assert len(few) == 10
    assert few < {text.content for text in read_texts(source, 20, 0)}
    assert few != {text.content for text in read_texts(source, 10, 1)}


def test_no_text_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "t.jsonl", [{"text": " "}])
    with pytest.raises(DataError, match=r"t.jsonl \(eval.benchmarks.texts\) holds no text"):
        read_texts(source, None, 0)


def test_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"instruction": "A", "output": "B"},
        {"instruction": "A", "output": None},
    ]
    with pytest.raises(DataError, match=r"has 1 problem:\n  .*t.jsonl:2: "):
        read_texts(write(tmp_path / "t.jsonl", rows), None, 0)


def test_lines_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"has 1 problem:\n  .*t.jsonl:2: "):
        read_texts(str(tmp_path / "t.jsonl"), None, 0)

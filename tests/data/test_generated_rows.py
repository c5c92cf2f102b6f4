"""The rows of benchmarks/data_gates.py hold what they are said to hold, and the stage finds it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import data_gates
from benchmarks.parts.generated_rows import Planted, write_rows

from tests.data.preparing import Prepared


def test_the_stage_finds_what_was_planted(prepare: Prepared) -> None:
    planted = write_rows(prepare.folder / "rows.jsonl", 1200)
    file = prepare(str(prepare.folder / "rows.jsonl"))
    found = {report.gate: report.num_found for report in file.gates}
    assert [len(lines) for lines in planted] == [24, 29, 12, 2]
    data_gates._check(data_gates.OURS, planted, found)
    with pytest.raises(SystemExit, match="doratune: encoding found 9, planted were 2"):
        data_gates._check(data_gates.OURS, planted, {**found, "encoding": 9})
    dropped = {int(row["place"].rpartition(":")[2]) for row in prepare.dropped()}
    assert dropped == set(planted.duplicates)


def test_rows_are_the_same_every_time_and_differ_from_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert isinstance(write_rows(first, 500), Planted)
    write_rows(second, 500)
    assert first.read_bytes() == second.read_bytes()
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    assert len({row["instruction"] for row in rows}) > 470

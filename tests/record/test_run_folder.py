from __future__ import annotations

from pathlib import Path

import pytest

from doratune.errors import StorageError
from doratune.record.files import (
    digest_json,
    digest_path,
    read_jsonl,
    replacing,
    write_jsonl,
    write_text,
)
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import RecordFile, VerifyFile


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    RecordFile(name="x", recipe_digest="d", seed=0).write(folder.record)
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_stage_runs_once_for_the_same_inputs(run: RunFolder) -> None:
    made: list[int] = []

    def work() -> None:
        made.append(1)
        write(run.report, f"{len(made)}")

    assert run.run_stage("report", {"a": "1"}, [run.report], work)
    assert not run.run_stage("report", {"a": "1"}, [run.report], work)
    assert run.run_stage("report", {"a": "2"}, [run.report], work)
    run.report.write_text("touched by somebody")
    assert run.run_stage("report", {"a": "2"}, [run.report], work)
    run.report.unlink()
    assert run.run_stage("report", {"a": "2"}, [run.report], work)
    assert len(made) == 4


def test_a_stage_that_fails_is_not_up_to_date(run: RunFolder) -> None:
    run.run_stage("report", {"a": "1"}, [run.report], lambda: write(run.report, "old"))

    def fail() -> None:
        raise StorageError("no")

    with pytest.raises(StorageError):
        run.run_stage("report", {"a": "2"}, [run.report], fail)
    assert not run.is_current("report", {"a": "1"})


def test_two_commands_in_one_folder(run: RunFolder) -> None:
    other = RunFolder(run.path).locked()
    with run.locked(), pytest.raises(StorageError, match=f"Another doratune .* {run.path}"):
        other.__enter__()


def test_replacing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(KeyError, match="gone"), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyError("gone")
    assert path.read_text() == "old"
    folder = tmp_path / "folder"
    for text in ("one", "two"):
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / "a").write_text(text)
    assert (folder / "a").read_text() == "two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, NotADirectoryError, FileExistsError)):
        write_text(tmp_path / "file" / "below", "x")


def test_lines_with_unusual_separators_survive(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\u0085c\r\nd"}, {"text": ""}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    write_jsonl(tmp_path / "none.jsonl", [])
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(StorageError, match=r"rows.jsonl:2 is not JSON .* run its stage again"):
        read_jsonl(tmp_path / "rows.jsonl")


def test_digests_see_content_and_names_but_not_key_order(tmp_path: Path) -> None:
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    write(tmp_path / "x" / "a", "1")
    write(tmp_path / "y" / "a", "1")
    assert digest_path(tmp_path / "x") == digest_path(tmp_path / "y")
    (tmp_path / "y" / "a").rename(tmp_path / "y" / "b")
    assert digest_path(tmp_path / "x") != digest_path(tmp_path / "y")


def test_a_record_that_does_not_fit_its_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "verify.json"
    with pytest.raises(StorageError, match=r"verify.json cannot be read: No such file"):
        VerifyFile.read(path)
    path.write_text('{"passed": "perhaps", "extra": 1}')
    with pytest.raises(
        StorageError, match=r"passed: Input should be a valid boolean.*extra: Extra"
    ):
        VerifyFile.read(path)

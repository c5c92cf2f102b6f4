from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from doratune.errors import StorageError
from doratune.record.files import write_jsonl
from doratune.record.review import (
    ReviewFiles,
    ReviewItem,
    ReviewVerdict,
    completions_review,
    data_review,
    record_review,
    standing,
    summarise,
)
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Example, Message, RecordFile


def item(id: str) -> ReviewItem:
    turns = [Message(role="user", content="Why?"), Message(role="assistant", content="Because.")]
    example = Example(id=id, messages=turns, label="x", place=f"file:{id}")
    return ReviewItem.of(example, "train")


def verdict(id: str, said: str | None, note: str = "", reviewer: str = "ada") -> ReviewVerdict:
    values = {"id": id, "verdict": said, "note": note, "reviewer": reviewer, "given_at": "now"}
    return ReviewVerdict.model_validate(values)


def test_the_last_word_of_each_reviewer_stands() -> None:
    lines = [
        verdict("1", "accept"),
        verdict("1", "reject", "wrong"),
        verdict("1", "accept", reviewer="bob"),
        verdict("2", "accept"),
        verdict("2", None),
        verdict("3", None, "hm"),
    ]
    found = standing(lines)
    assert found == {"1": {"ada": lines[1], "bob": lines[2]}, "2": {}, "3": {"ada": lines[5]}}


def test_summary_of_two_reviewers() -> None:
    lines = [
        verdict("1", "accept"),
        verdict("1", "reject", "wrong", reviewer="bob"),
        verdict("2", "accept"),
        verdict("2", "accept", reviewer="bob"),
        verdict("3", None, "unsure"),
        verdict("4", "accept"),
        verdict("of an earlier sample", "reject"),
    ]
    file = summarise([item(id) for id in "1234"], lines, "digest")
    assert (file.num_examples, file.num_judged) == (4, 3)
    assert (file.num_rejected, file.num_disputed, file.rejected_share) == (1, 1, 1 / 3)
    assert file.reviewers == {"ada": 3, "bob": 2}
    assert [(n.id, n.place, n.reviewer, n.verdict, n.note) for n in file.notes] == [
        ("1", "file:1", "bob", "reject", "wrong"),
        ("3", "file:3", "ada", None, "unsure"),
    ]


def test_nobody_said_anything() -> None:
    file = summarise([item("1")], [], "digest")
    assert (file.num_judged, file.rejected_share, file.reviewers) == (0, 0.0, {})
    assert file.problem(0.5) == "0 of 1 examples to be reviewed have a verdict"


def test_a_line_that_a_kill_cut_short_is_no_verdict_and_harms_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    verdict("1", "accept").append_to(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole + whole[:length])
        verdict("2", "reject", "“nein”\n\u2028").append_to(path)
        lines = ReviewVerdict.read_lines(path)
        assert [(line.id, line.verdict) for line in lines] == [("1", "accept"), ("2", "reject")]
        assert lines[1].note == "“nein”\n\u2028"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Nothing could be added to .*nowhere"):
        verdict("1", "accept").append_to(tmp_path / "nowhere" / "v.jsonl")


@pytest.mark.parametrize(
    ("files_of", "entry", "outcome", "maker"),
    [
        (data_review, "review", "review.json", "data"),
        (completions_review, "completions review", "completions/review.json", "completions"),
    ],
    ids=["data", "completions"],
)
def test_the_outcome_enters_the_record(
    files_of: Callable[[RunFolder], ReviewFiles],
    entry: str,
    outcome: str,
    maker: str,
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path)
    files = files_of(run)
    with pytest.raises(StorageError, match=rf"nothing to review yet. Run `doratune {maker}` first"):
        files.read_items()
    write_jsonl(files.items, [item(id).model_dump() for id in "12"])
    RecordFile(name="run", recipe_digest="", seed=0).write(run.record)
    verdict("1", "accept").append_to(files.verdicts)
    file = record_review(run, files)
    noted = RecordFile.read(run.record).stages[entry]
    assert noted.inputs["sample"] == file.sample_digest
    assert list(noted.outputs) == [outcome]
    assert record_review(run, files) == file
    assert RecordFile.read(run.record).stages[entry] == noted, "nothing new was noted"
    verdict("2", "accept").append_to(files.verdicts)
    assert record_review(run, files).num_judged == 2

from __future__ import annotations

from pathlib import Path

from doratune.cli.session import Session
from doratune.record.review import ReviewVerdict, standing
from tests.record.test_review import item

ITEMS = [item(id) for id in "1234"]


def session(path: Path, reviewer: str = "ada") -> Session:
    return Session(ITEMS, path / "verdicts.jsonl", reviewer)


def said(path: Path) -> dict[str, dict[str, str | None]]:
    lines = ReviewVerdict.read_lines(path / "verdicts.jsonl")
    return {
        id: {w.reviewer: w.verdict for w in words.values()} for id, words in standing(lines).items()
    }


def test_each_verdict_is_on_the_disk_at_once_and_the_next_session_goes_on(tmp_path: Path) -> None:
    first = session(tmp_path)
    first.judge("accept")
    assert said(tmp_path) == {"1": {"ada": "accept"}}
    first.judge("reject")
    again = session(tmp_path)
    assert again.current == ITEMS[2]
    assert again.verdicts == {"1": "accept", "2": "reject"}


def test_skipped_examples_come_at_the_end(tmp_path: Path) -> None:
    one = session(tmp_path)
    one.skip()
    for _ in range(3):
        one.judge("accept")
    assert one.current == ITEMS[0]
    assert not said(tmp_path).get("1")
    one.judge("reject")
    assert one.current is None


def test_undo_goes_back_step_by_step_into_earlier_sessions(tmp_path: Path) -> None:
    first = session(tmp_path)
    first.skip()
    first.judge("accept")
    first.judge("reject")
    again = session(tmp_path)
    assert again.undo()
    assert again.current == ITEMS[2]
    assert said(tmp_path) == {"2": {"ada": "accept"}, "3": {}}
    assert again.undo()
    assert again.current == ITEMS[1]
    assert not again.undo()
    assert session(tmp_path).verdicts == {}


def test_a_note_stays_with_and_without_a_verdict(tmp_path: Path) -> None:
    one = session(tmp_path)
    one.note("strange")
    assert one.current == ITEMS[0]
    again = session(tmp_path)
    assert again.notes["1"] == "strange"
    again.judge("reject")
    again.undo()
    assert session(tmp_path).notes["1"] == "strange"


def test_reviewers_do_not_see_each_others_verdicts(tmp_path: Path) -> None:
    session(tmp_path).judge("accept")
    bob = session(tmp_path, "bob")
    assert bob.current == ITEMS[0]
    assert not bob.undo()
    bob.judge("reject")
    assert said(tmp_path)["1"] == {"ada": "accept", "bob": "reject"}

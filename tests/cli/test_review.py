"""The review as a person meets it: in a terminal, key by key."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doratune.recipe.load import parse_recipe, write_recipe
from doratune.record.files import write_jsonl
from doratune.record.review import ReviewFile, ReviewItem, ReviewVerdict, completions_review
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Message, RecordFile
from tests.cli.conftest import Place

RECIPE = """
name: tiny
model: {source: ./nowhere}
data:
  source: a.jsonl
  gates: {review: {action: fail, max_rejected: 0.3}}
"""
LONG = "\n".join(f"line {n} of a long text" for n in range(60))
EVIL = "\x1b]0;title\x07[bold]not markup[/] \x1b[2J \u202eback to front"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder with a review sample of four, the second long and the third hostile."""
    run = RunFolder(tmp_path / "tiny")
    answers = ["first answer", LONG, EVIL, "last answer"]
    items = [
        ReviewItem(
            id=str(number),
            split="train",
            place=f"a.jsonl:{number}",
            label="capped" if number == 1 else None,
            messages=[
                Message(role="user", content=f"question {number}"),
                Message(role="assistant", content=answer),
            ],
        )
        for number, answer in enumerate(answers, 1)
    ]
    write_jsonl(run.review_sample, [item.model_dump() for item in items])
    write_recipe(run.recipe, parse_recipe(RECIPE, "recipe.yaml"))
    RecordFile(name="tiny", recipe_digest="", seed=0).write(run.record)
    return run


class Terminal:
    """`doratune review` in a pseudo-terminal of 80 x 24."""

    def __init__(self, run: RunFolder, what: str, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "doratune", "review", what, str(run.path), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
            start_new_session=True,
        )
        os.close(slave)
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def see(self, pattern: str) -> str:
        """Waits until the terminal shows it; returns what came since the last time."""
        shown, deadline = "", time.monotonic() + 30
        while time.monotonic() < deadline:
            if re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown), re.DOTALL):
                return shown
            shown += self._read()
        raise AssertionError(f"{pattern!r} never came; {shown!r} did")

    def press(self, keys: str, pattern: str) -> str:
        os.write(self.master, keys.encode())
        return self.see(pattern)

    def end(self) -> tuple[int, str]:
        """What came until the command ended, and its exit code."""
        shown = ""
        while part := self._read(10):
            shown += part
        return self.process.wait(10), " ".join(shown.split())

    def _read(self, seconds: float = 0.1) -> str:
        try:
            ready, _, _ = select.select([self.master], [], [], seconds)
            return self.decoder.decode(os.read(self.master, 65536)) if ready else ""
        except OSError:  # Linux says EIO when the other end is closed
            return ""

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def review(run: RunFolder) -> Iterator[Callable[..., Terminal]]:
    """Starts reviews, and ends them with the test."""
    started: list[Terminal] = []

    def start(*arguments: str, what: str = "data") -> Terminal:
        started.append(Terminal(run, what, *arguments))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


def said(run: RunFolder) -> list[tuple[str, str | None, str, str]]:
    lines = ReviewVerdict.read_lines(run.verdicts)
    return [(line.id, line.verdict, line.note, line.reviewer) for line in lines]


def test_a_whole_review(review: Callable[..., Terminal], run: RunFolder) -> None:
    terminal = review("--reviewer", "ada")
    terminal.see("0 of 4 judged by ada.*label: capped.*question 1.*first answer.*quit")
    terminal.press("a", "1 of 4 .*question 2.*line 0 .*page 1 of 4")
    assert said(run) == [("1", "accept", "", "ada")], "on the disk before the next key"
    terminal.press(" ", "line 20 .*page 2 of 4")
    terminal.press("\x1b[B", "page 3 of 4")
    terminal.press("b", "page 2 of 4")
    terminal.press("x", "Keys are a, r, n, u, s and q")
    terminal.press("s", "question 3")
    terminal.press("n", "Note .*: ")
    terminal.press("odd\x7f\x7fdd one\r", "Your note: odd one")
    terminal.press("r", "2 of 4 .*1 accepted, 1 rejected.*question 4")
    terminal.press("u", "1 of 4 .*question 3.*Your note: odd one")
    terminal.press("u", "0 of 4 .*question 1")
    terminal.press("u", "no verdict to take back")
    terminal.press("ara", "3 of 4 .*2 accepted, 1 rejected.*question 2")
    terminal.press("a", "All examples are judged")
    terminal.press("a", "u takes the last verdict back, q ends")
    os.write(terminal.master, b"q")
    code, shown = terminal.end()
    assert code == 0
    assert "4 of 4 examples have a verdict (ada 4), 1 of them a rejection." in shown
    assert "That is enough to train on." in shown
    file = ReviewFile.read(run.review)
    assert (file.num_judged, file.num_rejected, file.reviewers) == (4, 1, {"ada": 4})
    assert [(note.place, note.note) for note in file.notes] == [("a.jsonl:3", "odd one")]
    assert "review" in RecordFile.read(run.record).stages


def test_what_a_data_file_says_is_never_obeyed(review: Callable[..., Terminal]) -> None:
    terminal = review("--reviewer", "ada")
    terminal.see("first answer.*quit")
    terminal.press("a", "question 2.*quit")
    shown = terminal.press("s", "question 3.*quit")
    assert "␛]0;title␇[bold]not markup[/] ␛[2J <U+202E>back to front" in shown
    assert "\x1b]0;" not in shown


def test_a_kill_loses_nothing_and_the_terminal_is_as_before(
    review: Callable[..., Terminal], run: RunFolder
) -> None:
    terminal = review("--reviewer", "ada")
    terminal.see("first answer.*quit")
    terminal.press("r", "question 2")
    terminal.process.kill()
    terminal.process.wait()
    again = review("--reviewer", "ada")
    again.see("1 of 4 judged by ada: 0 accepted, 1 rejected.*question 2.*quit")
    os.kill(again.process.pid, signal.SIGINT)
    code, shown = again.end()
    assert code == 130
    assert "Interrupted. Every verdict is saved" in shown
    assert "\x1b[?1049l" in shown, "the screen is given back"
    assert termios.tcgetattr(again.master)[3] & (termios.ECHO | termios.ICANON)
    assert said(run) == [("1", "reject", "", "ada")]


def test_another_reviewer_is_asked_for_a_name(
    review: Callable[..., Terminal], run: RunFolder
) -> None:
    bob = review()
    bob.see(r"Your name, for the record \[.+\]: ")
    bob.press("bob\r", "0 of 4 judged by bob.*quit")
    os.write(bob.master, b"rq")
    code, shown = bob.end()
    assert code == 0
    assert "1 of 4 examples have a verdict (bob 1), 1 of them a rejection." in shown
    assert "Not enough to train on: 1 of 4 examples to be reviewed have a verdict." in shown


def test_completions_are_reviewed_in_the_same_way(
    review: Callable[..., Terminal], run: RunFolder
) -> None:
    files = completions_review(run)
    turns = [Message(role="user", content="why?"), Message(role="assistant", content="so")]
    item = ReviewItem(
        id="1", split=None, place="edge case: one", messages=turns, beside={"base": "[b]because[/]"}
    )
    write_jsonl(files.items, [item.model_dump()])
    terminal = review("--reviewer", "ada", what="completions")
    terminal.see(
        r"0 of 1 .*edge case: one.*user.*why\?.*assistant.*so.*base \(not judged\).*"
        r"\[b\]because\[/\].*quit"
    )
    os.write(terminal.master, b"rq")
    code, shown = terminal.end()
    assert code == 0
    assert "1 of 1 examples have a verdict (ada 1), 1 of them a rejection." in shown
    assert "train on" not in shown
    assert ReviewFile.read(files.outcome).num_rejected == 1
    assert not run.review.exists()


def test_no_terminal(place: Place, run: RunFolder) -> None:
    result = place("review", "data", run.path)
    assert result.code == 2
    assert "asks for single keystrokes, and standard input is not a terminal" in result.err
    assert str(run.verdicts) in result.err


@pytest.mark.parametrize("what", ["data", "completions"])
def test_nothing_to_review_yet(what: str, place: Place) -> None:
    result = place("review", what, place.recipe)
    assert result.code == 8
    assert f"nothing to review yet. Run `doratune {what}` first." in result.err

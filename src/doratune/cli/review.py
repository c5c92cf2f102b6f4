"""`doratune review`: a person's verdict, one keystroke an example."""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.segment import Segment, Segments
from rich.text import Text

from doratune.cli.options import Runs, Target, read_target
from doratune.cli.session import Session
from doratune.cli.stages import RUNS
from doratune.cli.terminal import keyboard, line_editing, require_terminal
from doratune.errors import ConfigError, Interrupted
from doratune.progress import visible
from doratune.record.review import (
    ReviewFile,
    ReviewFiles,
    ReviewItem,
    completions_review,
    data_review,
    record_review,
)
from doratune.record.run_folder import RunFolder

review = typer.Typer(no_args_is_help=True, help="Judge a sample by hand.")

_NEXT_PAGE, _PAGE_BEFORE = {" ", "\x1b[B", "\x1b[6~"}, {"b", "\x1b[A", "\x1b[5~"}


Reviewer = Annotated[
    str | None, typer.Option(help="Your name, for the record; asked for when left out.")
]


@review.command("data")
def review_data(recipe: Target, reviewer: Reviewer = None, runs: Runs = RUNS) -> None:
    """Accept or reject the examples of the review sample; goes on where you stopped."""
    loaded, run = read_target(recipe, runs)
    console = Console(highlight=False)
    file = _review("data", run, data_review(run), reviewer, console)
    gate = loaded.data.gates.review
    if gate.action == "fail":
        problem = file.problem(gate.max_rejected)
        console.print(
            f"Not enough to train on: {problem}." if problem else "That is enough to train on.",
            markup=False,
            soft_wrap=True,
        )


@review.command("completions")
def review_completions(recipe: Target, reviewer: Reviewer = None, runs: Runs = RUNS) -> None:
    """Accept or reject what the tuned model answered; goes on where you stopped."""
    _, run = read_target(recipe, runs)
    _review("completions", run, completions_review(run), reviewer, Console(highlight=False))


def _review(
    what: str, run: RunFolder, files: ReviewFiles, reviewer: str | None, console: Console
) -> ReviewFile:
    """Lets a person judge, and notes the outcome in the run folder."""
    items = files.read_items()
    require_terminal(
        f"doratune review {what}", f"append your verdicts to {files.verdicts} yourself"
    )
    session = Session(items, files.verdicts, _name(reviewer))
    try:
        with console.screen(), keyboard() as keys:
            _judge(session, console, keys)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(
            "Interrupted. Every verdict is saved: the same command goes on where this one stopped."
        ) from interrupt
    console.print(f"Every verdict is saved in {files.verdicts}.", markup=False, soft_wrap=True)
    with run.locked():
        file = record_review(run, files)
    people = ", ".join(f"{name} {number}" for name, number in file.reviewers.items())
    console.print(
        f"{file.num_judged} of {file.num_examples} examples have a verdict ({people or 'nobody'}), "
        f"{file.num_rejected} of them a rejection.",
        markup=False,
        soft_wrap=True,
    )
    return file


def _judge(session: Session, console: Console, keys: Iterator[str]) -> None:
    """Shows example after example until the reviewer has had enough."""
    page, message = 0, ""
    pages = _draw(session, console, page, message)
    for key in keys:
        before, message = session.current, ""
        if key in ("q", "\x04") or (before is None and key in "\r\n"):
            return
        if key == "u":
            message = "" if session.undo() else "There is no verdict to take back."
        elif before is None:
            message = "All examples are judged: u takes the last verdict back, q ends."
        elif key in _NEXT_PAGE | _PAGE_BEFORE:
            page = min(page + 1, pages - 1) if key in _NEXT_PAGE else max(page - 1, 0)
        elif key in _ACTIONS:
            _ACTIONS[key](session, console)
        else:
            message = "Keys are a, r, n, u, s and q; space and b turn pages."
        if session.current is not before:
            page = 0
        pages = _draw(session, console, page, message)


def _ask_note(session: Session, console: Console) -> None:
    with line_editing():
        try:
            text = console.input("Note (Enter alone leaves it as it is): ").strip()
        except EOFError:  # Ctrl-D
            return
    if text:
        session.note(text)


_ACTIONS: dict[str, Callable[[Session, Console], None]] = {
    "a": lambda session, _: session.judge("accept"),
    "r": lambda session, _: session.judge("reject"),
    "s": lambda session, _: session.skip(),
    "n": _ask_note,
}


def _draw(session: Session, console: Console, page: int, message: str) -> int:
    """Draws the screen; returns the number of pages that the current example takes."""
    console.clear()
    console.print(_progress(session))
    item = session.current
    if item is None:
        console.print("\nAll examples are judged.\n")
        console.print(message or "[b]u[/] take the last verdict back   [b]q[/] end")
        return 1
    lines = console.render_lines(_shown(item, session.notes.get(item.id, "")), pad=False)
    room = max(console.height - _FRAME_LINES, 1)
    pages = -(-len(lines) // room)
    console.print(Rule(style="dim"))
    for line in lines[page * room : (page + 1) * room]:
        console.print(Segments([*line, Segment.line()]), end="")
    console.print(Rule(style="dim"))
    turn = f"   [b]space[/] page {page + 1} of {pages}" if pages > 1 else ""
    console.print(
        f"[b]a[/] accept  [b]r[/] reject  [b]n[/] note  [b]u[/] undo  [b]s[/] skip  [b]q[/] quit{turn}"
    )
    if message:
        console.print(message, style="yellow")
    return pages


_KEYS = "[b]a[/] accept  [b]r[/] reject  [b]n[/] note  [b]u[/] undo  [b]s[/] skip  [b]q[/] quit"
_FRAME_LINES = 6
"""Lines around the example: progress, two rules, keys, and two for a message or a note."""


def _progress(session: Session) -> Text:
    given = list(session.verdicts.values())
    return Text(
        f"{len(given)} of {len(session.items)} judged by {session.reviewer}: "
        f"{given.count('accept')} accepted, {given.count('reject')} rejected",
        overflow="ellipsis",
        no_wrap=True,
    )


def _shown(item: ReviewItem, note: str) -> RenderableType:
    """The example as text; nothing in it is taken for markup or reaches the terminal as a control."""
    about = [item.split, item.place, item.label and f"label: {item.label}"]
    parts: list[RenderableType] = [
        Text(visible(" · ".join(filter(None, about))), style="dim"),
        Text(),
    ]
    turns = [(turn.role, turn) for turn in item.messages]
    for name, turn in [*turns, *(("rejected answer", turn) for turn in item.rejected or ())]:
        said = turn.content
        if turn.tool_calls:
            said = "\n".join(
                [said, *(json.dumps(call, ensure_ascii=False) for call in turn.tool_calls)]
            )
        parts += _turn(name, said)
    for name, said in item.beside.items():
        parts += _turn(f"{name} (not judged)", said)
    if note:
        parts.append(Text(f"Your note: {visible(note)}", style="italic"))
    return Group(*parts)


def _turn(name: str, said: str) -> list[RenderableType]:
    return [Text(name, style="bold"), Padding(Text(visible(said)), (0, 0, 1, 2))]


def _name(given: str | None) -> str:
    """Who is judging.

    Raises:
        ConfigError: The name is empty.
    """
    if given is None:
        given = str(typer.prompt("Your name, for the record", default=_user_name()))
    if not given.strip():
        raise ConfigError("The reviewer's name is empty. Give it with --reviewer.")
    return given.strip()


def _user_name() -> str:
    """The name that git knows, or else the login."""
    if shutil.which("git"):
        answer = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, text=True, check=False
        )
        if answer.stdout.strip():
            return answer.stdout.strip()
    return getpass.getuser()

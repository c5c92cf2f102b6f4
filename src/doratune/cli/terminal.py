"""Single keystrokes."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from doratune.errors import ConfigError


def require_terminal(command: str, instead: str) -> None:
    """Refuses to ask where nobody can answer.

    Raises:
        ConfigError: Standard input or output is no terminal.
    """
    for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
        if not stream.isatty():
            raise ConfigError(
                f"`{command}` asks for single keystrokes, and standard {name} is not a terminal. "
                f"Run it in one, or {instead}."
            )


@contextmanager
def keyboard() -> Iterator[Iterator[str]]:
    """Keys as they are pressed, without Enter and without echo; an arrow is one key.

    The terminal is as it was before while the body is not waiting for a key inside `line_editing`,
    and after it, whatever happens. The keys end when the terminal goes away.
    """
    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _keys(sys.stdin.fileno())
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


@contextmanager
def line_editing() -> Iterator[None]:
    """The terminal's own echo and Enter, for a while inside `keyboard`."""
    settings = termios.tcgetattr(sys.stdin)
    lines = termios.tcgetattr(sys.stdin)
    lines[3] |= termios.ICANON | termios.ECHO
    try:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, lines)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


def _keys(descriptor: int) -> Iterator[str]:
    while data := os.read(descriptor, 64):
        text = data.decode(errors="replace")
        # The terminal sends the bytes of one special key together, and those begin with Escape.
        yield from [text] if text.startswith("\x1b") else text

"""A job as a process of its own: clean memory, and a crash ends nothing but the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOG = "log.txt"

INTERRUPT_SECONDS = 10
"""What an interrupted job has to put away its temporary files."""


def run_process(
    folder: str,
    environment: Mapping[str, str],
    working_folder: str | None = None,
    started: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> int:
    """Runs the job of a folder and waits for it; what it prints is in the folder's ``log.txt``.

    Args:
        folder: The job's run folder, prepared.
        environment: Variables beside those of this process.
        working_folder: Where the recipe's relative paths start.
        started: Is given the process.

    Returns:
        Its exit code, negative for the signal that ended it.
    """
    with (Path(folder) / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "doratune.compare.job", folder],
            # The job ends when this end of the pipe closes, however this process ends.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=working_folder,
            # Ctrl-C in the terminal is for the comparison, which then interrupts its jobs.
            start_new_session=True,
        )
        if started is not None:
            started(process)
        return process.wait()


def interrupt(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks jobs to stop, and ends those that do not."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + INTERRUPT_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def describe_exit(exit_code: int) -> str:
    """Why a process ended that has said nothing itself."""
    if exit_code >= 0:
        return f"The process ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    memory = ", which is what a system does that is out of memory" if name == "SIGKILL" else ""
    return f"The process was ended by {name}{memory}"

"""Two gloo processes on this machine, for one test."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

WORLD_SIZE = 2
TIMEOUT_SECONDS = 180
"""A healthy case takes 2 to 12 s, on a busy machine 40. Processes that wait for each other never end."""

PROCESSES = multiprocessing.get_context("forkserver")
# The server imports the heavy libraries once, 6 s, and never runs a backward (which forbids forking).
PROCESSES.set_forkserver_preload(["tests.distributed.training"])


def run_in_two_processes(work: Callable[[], Any], folder: Path) -> Any:
    """What ``work()`` returns in process 0; process 1 runs it too, in one gloo group.

    The group meets in a file, so that no port has to be free.
    """
    processes, answers = [], []
    for rank in range(WORLD_SIZE):
        receive, send = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(
            target=_run, args=(work, rank, folder / "meeting", send), daemon=True
        )
        process.start()
        send.close()
        processes.append(process)
        answers.append(receive)
    try:
        return _wait(answers, time.monotonic() + TIMEOUT_SECONDS)[0]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _wait(answers: list[Connection], deadline: float) -> list[Any]:
    """The answers of all processes; fails at the first error, whichever process has it."""
    found: dict[int, Any] = {}
    while len(found) < len(answers):
        open_answers = [answer for rank, answer in enumerate(answers) if rank not in found]
        ready = multiprocessing.connection.wait(open_answers, max(0, deadline - time.monotonic()))
        if not ready:
            pytest.fail(
                f"processes {set(range(len(answers))) - found.keys()} did not finish in time"
            )
        for answer in ready:
            rank = answers.index(answer)
            try:
                error, result = answer.recv()
            except EOFError:
                pytest.fail(f"process {rank} died")
            if error:
                pytest.fail(f"process {rank}:\n{error}")
            found[rank] = pickle.loads(result)
    return [found[rank] for rank in range(len(answers))]


def _run(work: Callable[[], Any], rank: int, meeting: Path, answer: Connection) -> None:
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD_SIZE
        )
        # Pickled here, by value: a connection would share tensors' memory, which ends with the process.
        answer.send((None, pickle.dumps(work())))
    except BaseException:  # reported by the test's own process, which fails on it
        answer.send((traceback.format_exc(limit=-4), None))

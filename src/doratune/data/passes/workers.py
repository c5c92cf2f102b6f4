"""Work on many chunks in several processes, in order and with few of them in memory."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from types import TracebackType
from typing import Any, Self, TypeVar

from doratune.errors import DoratuneError

T = TypeVar("T")

_FEW = 3
"""Tasks for which no workers are started."""

_AHEAD = 2
"""Tasks per worker that wait for it: enough to keep it busy, few enough to stay small in memory."""


class Workers:
    """Processes that are started when there is enough to do, and end with the ``with`` block.

    Args:
        number: Processes; with 1 everything is done in this one.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._pool: ProcessPoolExecutor | None = None
        self._warm: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def map(self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Calls a function of a module with each task's arguments; results come in order.

        Raises:
            DoratuneError: A worker died.
        """
        pending: deque[Future[T]] = deque()
        try:
            for number, task in enumerate(tasks):
                few = self._pool is None and number < _FEW
                if self.number == 1 or few or not self._ready(function):
                    # Workers take two seconds or more to start, which this process can use as well.
                    yield function(*task)
                    continue
                pending.append(self._started().submit(function, *task))
                if len(pending) > _AHEAD * self.number:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise DoratuneError(
                "A worker process of the data stage died, most likely for lack of memory. Give the "
                "stage more memory and run the same command again: it goes on where it was."
            ) from error
        finally:
            for future in pending:
                future.cancel()

    def _ready(self, function: Callable[..., Any]) -> bool:
        """Starts the workers, if they are not, and says whether all of them can take work."""
        if not self._warm:
            self._warm = [self._started().submit(_import, function) for _ in range(self.number)]
        return all(future.done() for future in self._warm)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Spawned, not forked: this process may have threads, of torch or of tokenizers.
            self._pool = ProcessPoolExecutor(
                self.number, mp_context=get_context("spawn"), initializer=_prepare_worker
            )
        return self._pool


def _import(function: Callable[..., Any]) -> None:
    """Gets a worker ready: when it has unpickled the function, it has imported what it needs."""
    # What was imported stays. To look through it for garbage again and again took half of the time.
    gc.freeze()


def _prepare_worker() -> None:
    # Ctrl-C goes to the whole group of processes; the parent is the one to act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread each: the cores are busy with the other workers.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A killed parent closes nothing that its workers wait for, so they would wait forever."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)

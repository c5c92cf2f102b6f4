"""Jobs as processes of this machine."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from doratune.compare.engine.process import interrupt, run_process


class LocalEngine:
    """A pool of processes, each on a GPU of its own where there are any."""

    def __init__(self, workers: int | None) -> None:
        """Args: workers: Jobs side by side; None for one on each GPU, or one on the CPU."""
        devices = visible_gpus()
        self.workers = workers or max(1, len(devices))
        self.description = f"{self.workers} at a time on this machine"
        self._places: SimpleQueue[dict[str, str]] = SimpleQueue()
        for number in range(self.workers):
            self._places.put(_environment(number, self.workers, devices))
        self._pool = ThreadPoolExecutor(self.workers)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = False

    def submit(self, folder: Path) -> Future[int]:
        """Starts a job; the result is its exit code."""
        return self._pool.submit(self._run, folder)

    def stop(self) -> None:
        """Ends all jobs; they go on from their last checkpoints when they are started again."""
        self._stopping = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        interrupt(list(self._running))
        self._pool.shutdown()

    def _run(self, folder: Path) -> int:
        environment = self._places.get()
        processes: list[subprocess.Popen[bytes]] = []

        def started(process: subprocess.Popen[bytes]) -> None:
            processes.append(process)
            self._running.add(process)
            if self._stopping:
                interrupt([process])

        try:
            return run_process(str(folder), environment, started=started)
        finally:
            self._running.difference_update(processes)
            self._places.put(environment)


def visible_gpus() -> list[str]:
    """What to write into ``CUDA_VISIBLE_DEVICES`` for each GPU; empty without GPUs."""
    import torch

    count = torch.cuda.device_count()  # does not start CUDA
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [named[n].strip() if n < len(named) and named[n] else str(n) for n in range(count)]


def _environment(number: int, workers: int, devices: list[str]) -> dict[str, str]:
    """Variables of one place in the pool: its GPU, and its share of the cores."""
    environment = {}
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    if workers > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        environment["OMP_NUM_THREADS"] = str(max(1, (cores or 1) // workers))
    return environment

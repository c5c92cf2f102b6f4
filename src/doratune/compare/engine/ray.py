"""Jobs as tasks of a Ray cluster whose machines share the run folder."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from doratune.compare.engine.process import run_process
from doratune.errors import DependencyError, DoratuneError


class RayEngine:
    """The cluster that ``RAY_ADDRESS`` names or that runs on this machine; else one of this machine.

    Every machine of it needs doratune, the base model and the folder of the runs at the same path. A
    task is the same process as on one machine, with what Ray gives it: a GPU where the cluster has any,
    else cores.
    """

    def __init__(self, workers: int | None) -> None:
        """Args: workers: Jobs side by side; None for one on each GPU, or one on each machine."""
        try:
            import ray
        except ImportError as error:
            raise DependencyError(
                "The engine ray needs the package 'ray', which is not installed. "
                "Install it with: pip install 'doratune[ray]'"
            ) from error
        self._ray: Any = ray
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DoratuneError(
                f"No Ray cluster could be reached or started: {error}. Start one with `ray start "
                "--head`, name it in RAY_ADDRESS, or use --engine local."
            ) from error
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(machine.get("GPU", 0) for machine in machines))
        cores = [int(machine.get("CPU", 0)) for machine in machines]
        self.workers = workers or gpus or len(machines)
        # A task that asks for more than any machine has would wait for ever.
        share = 1 if gpus else max(1, min(sum(cores) // self.workers, max(cores)))
        self.description = (
            f"{self.workers} at a time on a Ray cluster of {len(machines)} "
            f"{'machine' if len(machines) == 1 else 'machines'} ({sum(cores)} cores, {gpus} GPUs)"
        )
        environment = {} if gpus else {"OMP_NUM_THREADS": str(share)}
        self._task = (
            ray.remote(_run)
            .options(num_cpus=share, num_gpus=1 if gpus else 0, max_retries=0)
            .remote
        )
        self._arguments = (environment, str(Path.cwd()))
        self._running: list[Any] = []

    def submit(self, folder: Path) -> Future[int]:
        """Starts a job; the result is its exit code."""
        reference = self._task(str(folder.resolve()), *self._arguments)
        self._running.append(reference)
        future: Future[int] = reference.future()
        return future

    def stop(self) -> None:
        """Ends all jobs; they go on from their last checkpoints when they are started again."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def _run(folder: str, environment: dict[str, str], working_folder: str) -> int:
    return run_process(folder, environment, working_folder)

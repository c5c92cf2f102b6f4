"""Where jobs run: processes of this machine, or a Ray cluster."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Literal, Protocol

from doratune.compare.engine.local import LocalEngine


class Engine(Protocol):
    """What the comparison needs of one."""

    workers: int
    """Jobs side by side."""
    description: str
    """How many at a time and where, in words."""

    def submit(self, folder: Path) -> Future[int]:
        """Starts the job of a folder; the result is its exit code."""

    def stop(self) -> None:
        """Ends all jobs, and lets go of what it holds."""


def open_engine(name: Literal["local", "ray"], workers: int | None) -> Engine:
    """Starts an engine.

    Args:
        name: Which one.
        workers: Jobs side by side; None for the engine's own choice.

    Raises:
        DependencyError: Ray is not installed.
    """
    if name == "ray":
        from doratune.compare.engine.ray import RayEngine

        return RayEngine(workers)
    return LocalEngine(workers)

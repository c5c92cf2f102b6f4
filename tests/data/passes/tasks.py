"""Tasks for workers, which import this file and so must not import torch by it."""

from __future__ import annotations

import os
import sys

import doratune.data.passes.rendered
import doratune.data.passes.survey  # noqa: F401 - what a worker of the stage imports
from doratune.errors import DataError


def about(number: int) -> tuple[int, int, bool]:
    """What is asked, where it runs, and whether torch was imported there."""
    return number, os.getpid(), "torch" in sys.modules


def refuse(number: int) -> None:
    """Raises an error of the data."""
    raise DataError(f"row {number} is odd")


def die(code: int) -> None:
    """Ends its process, as the kernel does for lack of memory."""
    os._exit(code)

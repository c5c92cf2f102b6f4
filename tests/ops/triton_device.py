"""Where the kernels run: on a GPU, or in Triton's interpreter.

The interpreter must be chosen before anything imports triton: tests/conftest.py does.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from tests.accuracy import assert_as_accurate

pytest.importorskip("triton", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"
if INTERPRETED:
    assert os.environ.get("TRITON_INTERPRET") == "1", "tests/conftest.py sets it"


def ulp(exact: Tensor, dtype: torch.dtype) -> float:
    """What the interpreter's stores may add to a distance from ``exact``, relative: one bf16 ulp.

    Triton 3.9's interpreter truncates where a GPU rounds to nearest, in bf16 alone.
    """
    return torch.finfo(dtype).eps if INTERPRETED and dtype == torch.bfloat16 else 0.0


def assert_close(name: str, found: Tensor, plain: Tensor, exact: Tensor) -> None:
    """The 4x rule of tests/accuracy.py, with the interpreter's own rounding allowed for."""
    assert_as_accurate(name, found, plain, exact, found.dtype, ulp(exact, found.dtype))

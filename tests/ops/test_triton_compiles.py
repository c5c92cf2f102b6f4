"""Every launch setting compiles for its GPU, by the real compiler and without a GPU, and spills nothing.

The interpreter forgives what the compiler does not, such as a variable that changes shape in a loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

MAX_SHARED_BYTES = 99 << 10  # of the smallest sm8x GPUs; sm80 has 163 KiB, sm90 227


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
def test_launch_settings(architecture: int, tmp_path: Path) -> None:
    """In a process of its own, where Triton is not interpreting."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.ops.compile_kernels", str(architecture)]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["kernel"] for row in rows} == {
        "scale_up",
        "scale_grad",
        "dropout",
        "finish_norm",
        "repair_small",
    }
    for row in rows:
        assert row["stack_bytes"] == 0, f"registers spill: {row}"
        assert row["shared_bytes"] <= MAX_SHARED_BYTES, row

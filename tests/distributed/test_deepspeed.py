"""DeepSpeed's ZeRO in two processes gives the losses and the adapter of one process; see test_torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.distributed.launch import run_in_two_processes
from tests.distributed.training import Trained, assert_same_training

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install deepspeed==0.19.8")

from tests.distributed.zero import with_zero


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("stage", [2, 3])
def test_zero(
    stage: int, checkpointing: bool, tmp_path: Path, plain: Trained, exact: Trained
) -> None:
    work = partial(with_zero, stage, checkpointing=checkpointing)
    assert_same_training(run_in_two_processes(work, tmp_path), plain, exact)

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from benchmarks.tune_kernels import render

from doratune.ops import launch
from doratune.ops.launch_table import LAST, TABLE


@pytest.mark.parametrize("architecture", [80, 90])
def test_every_kernel_has_a_setting_for_every_size(architecture: int) -> None:
    for kernel, widths in {
        "scale_up": (2, 4),
        "scale_grad": (2, 4),
        "dropout": (2, 4),
        "finish_norm": (4,),
    }.items():
        for width in widths:
            assert (kernel, architecture, width, LAST) in TABLE


def test_the_smallest_limit_that_fits_applies() -> None:
    assert launch._row("scale_grad", 80, 2, 1024) == TABLE["scale_grad", 80, 2, 1024]
    assert launch._row("scale_grad", 80, 2, 1025) == TABLE["scale_grad", 80, 2, LAST]


def test_a_caller_cannot_change_the_table() -> None:
    like = torch.zeros(1)
    launch.settings("dropout", like, 5)["BLOCK"] = 1
    assert launch.settings("dropout", like, 5)["BLOCK"] > 1


def test_a_tensor_on_a_cpu_is_left_to_eager() -> None:
    assert not launch.uses_triton(torch.zeros(1))


def test_what_the_tuner_writes_is_the_table(tmp_path: Path) -> None:
    changed = TABLE | {("dropout", 90, 2, LAST): {"BLOCK": 512, "num_warps": 2}}
    path = tmp_path / "table.py"
    path.write_text(render(changed, "a test"))
    assert runpy.run_path(str(path))["TABLE"] == changed
    assert "Origin: a test." in path.read_text()

"""DDP and FSDP2 in two processes give the losses and the adapter of one process.

The truth is PEFT's DoRA in float64, in one process, on the whole batch; the measure is the same in
float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from tests.accuracy import assert_as_accurate
from tests.adapter.models import tokens
from tests.distributed.launch import run_in_two_processes
from tests.distributed.training import (
    Trained,
    adapted_linears,
    assert_same_training,
    base_layers,
    decoder_layers,
    model_to_train,
    train,
    trained_leaves,
    with_ddp,
    with_fsdp,
)


def test_ddp(tmp_path: Path, plain: Trained, exact: Trained) -> None:
    assert_same_training(run_in_two_processes(with_ddp, tmp_path), plain, exact)


UNITS = {
    "whole model": with_fsdp,
    "decoder layers": partial(with_fsdp, decoder_layers),
    "decoder layers, recomputed": partial(with_fsdp, decoder_layers, checkpointing=True),
    "adapted linears": partial(with_fsdp, adapted_linears, decoder_layers),
    "each factor and magnitude": partial(with_fsdp, trained_leaves, decoder_layers),
    "each factor and magnitude, recomputed": partial(
        with_fsdp, trained_leaves, decoder_layers, checkpointing=True
    ),
    "base layers": partial(with_fsdp, base_layers, decoder_layers),
}
QUICK = ("decoder layers, recomputed", "each factor and magnitude")


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(work, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, work in UNITS.items()
    ],
)
def test_fsdp2(work: Callable[[], Trained], tmp_path: Path, plain: Trained, exact: Trained) -> None:
    assert_same_training(run_in_two_processes(work, tmp_path), plain, exact)


def test_stock_peft_loads_what_fsdp2_saved(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    run_in_two_processes(partial(with_fsdp, decoder_layers, save_to=folder), tmp_path)
    loaded = PeftModel.from_pretrained(model_to_train(fast=False).unload(), folder).eval()
    alone = model_to_train(fast=False)
    train(alone)
    exact = copy.deepcopy(alone).double().eval()(tokens()).logits
    found, plain = loaded(tokens()).logits, alone.eval()(tokens()).logits
    assert_as_accurate("logits", found, plain, exact, torch.float32)

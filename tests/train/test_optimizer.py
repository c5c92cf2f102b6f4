from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from doratune.adapter import enable_fast_dora
from doratune.recipe.schema import TrainSection
from doratune.train.optimizer import build_optimizer, schedule
from tests.adapter.models import with_dora
from tests.tiny import tiny_model


def test_magnitudes_have_a_group_of_their_own_without_decay() -> None:
    model = with_dora(tiny_model(), trained=False)
    enable_fast_dora(model)
    section = TrainSection(learning_rate=1e-3, magnitude_learning_rate=5e-3, weight_decay=0.1)
    optimizer, _ = build_optimizer(model, section, num_steps=10)
    matrices, magnitudes = optimizer.param_groups
    assert (matrices["initial_lr"], matrices["weight_decay"]) == (1e-3, 0.1)
    assert (magnitudes["initial_lr"], magnitudes["weight_decay"]) == (5e-3, 0.0)
    assert len(matrices["params"]) == 28
    assert len(magnitudes["params"]) == 14
    assert all(p.ndim == 1 and p.dtype == torch.float32 for p in magnitudes["params"])


def test_magnitudes_below_float32_are_an_error() -> None:
    model = with_dora(tiny_model(), trained=False).to(torch.bfloat16)
    with pytest.raises(
        TypeError, match=r"lora_magnitude_vector.* is torch.bfloat16; magnitudes are"
    ):
        build_optimizer(model, TrainSection(), num_steps=10)


def test_full_fine_tuning_decays_matrices_only() -> None:
    optimizer, _ = build_optimizer(tiny_model(), TrainSection(weight_decay=0.1), num_steps=10)
    decayed, plain = optimizer.param_groups
    assert all(p.ndim == 2 for p in decayed["params"])
    assert plain["weight_decay"] == 0.0
    assert all(p.ndim == 1 for p in plain["params"])


@pytest.mark.parametrize(
    ("name", "peer"),
    [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)],
)
def test_schedules_are_those_of_transformers(name: str, peer: object) -> None:
    section = TrainSection(scheduler=name, warmup_share=0.1)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    expected = peer(optimizer, num_warmup_steps=4, num_training_steps=40)  # type: ignore[operator]
    share = schedule(section, 40)
    for step in range(40):
        assert share(step) == pytest.approx(expected.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        expected.step()


def test_constant_schedule_rises_then_stays() -> None:
    share = schedule(TrainSection(scheduler="constant", warmup_share=0.1), 20)
    assert [share(step) for step in (0, 1, 2, 19)] == [0, 0.5, 1, 1]


def test_magnitude_warmup_is_on_top_of_the_schedule() -> None:
    model = with_dora(tiny_model(), trained=False)
    section = TrainSection(
        learning_rate=1.0, warmup_share=0.0, scheduler="linear", magnitude_warmup_share=0.5
    )
    optimizer, scheduler = build_optimizer(model, section, num_steps=10)
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    assert [a for a, _ in rates] == pytest.approx([1 - s / 10 for s in range(10)])
    assert [m for _, m in rates] == pytest.approx([(1 - s / 10) * min(1, s / 5) for s in range(10)])
    assert math.isclose(rates[0][1], 0.0)

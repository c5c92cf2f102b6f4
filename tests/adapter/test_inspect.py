from __future__ import annotations

import pytest
import torch

from doratune.adapter import enable_fast_dora, layer_states
from tests.adapter.models import with_dora
from tests.tiny import tiny_model


@pytest.mark.parametrize("dora", [True, False], ids=["dora", "lora"])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "peft"])
def test_changes_against_the_dense_weights(dora: bool, fast: bool) -> None:
    base = tiny_model()
    model = with_dora(base, trained=True, use_dora=dora)
    if fast:
        enable_fast_dora(model)
    states = {state.layer: state for state in layer_states(model)}
    assert len(states) == 14
    before = {n: p.detach().double() for n, p in base.named_parameters()}
    merged = model.double().merge_and_unload()
    for name, weight in merged.named_parameters():
        layer = name.removesuffix(".weight")
        if layer not in states:
            continue
        W = before[name]
        magnitude = (weight.norm(dim=1) - W.norm(dim=1)).abs() / W.norm(dim=1)
        direction = 1 - torch.cosine_similarity(weight, W, dim=1)
        state = states[layer]
        torch.testing.assert_close(state.magnitude_change.double(), magnitude, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(state.direction_change.double(), direction, rtol=1e-3, atol=1e-6)

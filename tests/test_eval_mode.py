from __future__ import annotations

import pytest
import torch

from doratune.eval_mode import evaluating
from tests.tiny import tiny_model


def stop(model: torch.nn.Module) -> None:
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("stop")


def test_every_part_of_a_model_goes_back_into_its_mode() -> None:
    model = tiny_model().train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"):
        stop(model)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)

from __future__ import annotations

import pytest
import torch

from doratune.ship.verification.roundoff import ROUNDOFF, roundoff_of


@pytest.mark.parametrize("name", ROUNDOFF)
def test_it_is_half_the_step_after_one(name: str) -> None:
    dtype = getattr(torch, name)
    assert ROUNDOFF[name] == roundoff_of(dtype) == torch.finfo(dtype).eps / 2


def test_what_no_model_computes_in_has_none() -> None:
    assert roundoff_of(torch.int8) == roundoff_of(torch.float8_e4m3fn) == 0

from __future__ import annotations

import pytest
import torch

from tests.distributed.training import Trained, alone


@pytest.fixture(scope="module")
def exact() -> Trained:
    return alone(fast=False, dtype=torch.float64)


@pytest.fixture(scope="module")
def plain() -> Trained:
    return alone(fast=False)

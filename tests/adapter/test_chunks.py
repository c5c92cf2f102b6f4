"""The norm of a frozen weight, read in one pass."""

from __future__ import annotations

import pytest
import torch

from doratune.adapter.base_weight import chunks
from tests.accuracy import assert_as_accurate

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (63, 100), (7, 1009), (5, 4096), (3, 11008)], ids=str)
def test_as_accurate_as_plain_float32(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(dtype)
    weight[-1] = 0 if len(weight) > 1 else 1.5
    found = chunks.norm_squared(weight)
    assert found.dtype == torch.float32
    plain = weight.float().square().sum(1)
    exact = weight.double().square().sum(1)
    assert_as_accurate("norm squared", found, plain, exact, torch.float32)
    assert torch.equal(found == 0, exact == 0)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
def test_empty(shape: tuple[int, int]) -> None:
    assert torch.equal(chunks.norm_squared(torch.empty(shape)), torch.zeros(shape[0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
def test_strided_and_integer_weights_are_read_in_pieces(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 100)
    weight = torch.randn(40, 17, generator=torch.Generator().manual_seed(0)).mul_(20).to(dtype).T
    exact = weight.double().square().sum(1)
    assert_as_accurate(
        "norm squared",
        chunks.norm_squared(weight),
        weight.float().square().sum(1),
        exact,
        torch.float32,
    )

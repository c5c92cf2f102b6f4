from __future__ import annotations

import pytest
import torch

from doratune.ops import BaseWeight, direction_change, weight_norm
from doratune.ops.weight_norm import reference
from tests.accuracy import assert_as_accurate
from tests.ops.layers import SCALING, plain_weight_norm, random_layer

SHAPES = [(1, 1, 1), (63, 100, 7), (300, 1000, 16), (300, 1000, 64), (64, 17, 1)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("O", "I", "R"), SHAPES)
def test_value(O: int, I: int, R: int, dtype: torch.dtype) -> None:
    layer = random_layer(O, I, R, dtype)
    norm = weight_norm(layer.base, layer.A, layer.B, SCALING)
    assert norm.dtype == torch.float32
    exact = reference.weight_norm(layer.W, layer.A, layer.B, SCALING)
    assert_as_accurate("norm", norm, plain_weight_norm(layer), exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_update_gives_the_norm_of_the_base_bit_for_bit(dtype: torch.dtype) -> None:
    layer = random_layer(63, 100, 16, dtype)
    norm = weight_norm(layer.base, layer.A, torch.zeros_like(layer.B), SCALING)
    assert torch.equal(norm, layer.base.norm_squared_O.sqrt())


@pytest.mark.parametrize("left", [0.2, 1e-2, 1e-3, 1e-5])
def test_cancelling_rows_are_recomputed_densely(left: float) -> None:
    """Where sBA cancels W but for a share ``left``, the factored form alone has few digits or none."""
    layer = random_layer(40, 300, 8, torch.float32)
    direction = torch.randn(300, generator=torch.Generator().manual_seed(1))
    layer.A[0] = direction
    layer.B[7] = 0
    layer.B[7, 0] = 1 / SCALING
    layer.W[7] = -direction * (1 + left)
    norm = weight_norm(layer.base, layer.A, layer.B, SCALING)
    exact = reference.weight_norm(layer.W, layer.A, layer.B, SCALING)
    # Forming V loses left digits too: a difference of numbers of size 1 that is left / eps long.
    torch.testing.assert_close(norm[7].double(), exact[7], rtol=4 * 2**-24 / left, atol=0)
    assert_as_accurate("all rows", norm, plain_weight_norm(layer), exact, torch.float32)


def test_zero_row_has_norm_zero() -> None:
    layer = random_layer(5, 9, 2, torch.float32)
    layer.W[3], layer.B[3] = 0, 0
    assert weight_norm(layer.base, layer.A, layer.B, SCALING)[3] == 0


def test_the_base_is_asked_for_rank_rows_only() -> None:
    layer = random_layer(12, 30, 3, torch.float32)
    asked: list[tuple[int, ...]] = []

    def project(A: torch.Tensor) -> torch.Tensor:
        asked.append(tuple(A.shape))
        return layer.W @ A.T

    def rows(index: torch.Tensor) -> torch.Tensor:
        raise AssertionError("no row cancels")

    weight_norm(BaseWeight(layer.W.square().sum(1), project, rows), layer.A, layer.B, SCALING)
    assert asked == [(3, 30)]


def test_autocast_does_not_reach_the_norm() -> None:
    layer = random_layer(63, 100, 16, torch.float32)
    outside = weight_norm(layer.base, layer.A, layer.B, SCALING)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weight_norm(layer.base, layer.A, layer.B, SCALING), outside)


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 30.0])
def test_direction_change(size: float) -> None:
    """Against cosines in float64; 1 - cos in float32 would have no correct digit at 1e-4."""
    layer = random_layer(63, 100, 7, torch.float32)
    B = layer.B * size
    V = layer.W.double() + SCALING * (B.double() @ layer.A.double())
    exact = 1 - torch.nn.functional.cosine_similarity(V, layer.W.double(), dim=1)
    found = direction_change(layer.base, layer.A, B, SCALING)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)

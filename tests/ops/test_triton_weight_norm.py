from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from doratune.ops.weight_norm import reference
from tests.ops.layers import SCALING, Layer, plain_weight_norm, random_layer
from tests.ops.triton_device import DEVICE, assert_close

Norm = Callable[[Layer], Tensor]


@pytest.fixture(scope="module")
def norm() -> Norm:
    from doratune.ops.weight_norm.triton import finish_norm

    def run(layer: Layer) -> Tensor:
        W, A, B = (t.to(DEVICE) for t in (layer.W, layer.A, layer.B))
        base = layer._replace(W=W).base
        product, gram = base.project(A), A.float() @ A.float().T
        zero = base.zero_squared
        return finish_norm(base.norm_squared_O, product, gram, B, SCALING, W, A, zero).cpu()

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("O", "I", "R"), [(1, 1, 1), (63, 100, 7), (300, 1000, 16), (100, 63, 64), (40, 300, 100)]
)
def test_value(norm: Norm, O: int, I: int, R: int, dtype: torch.dtype) -> None:
    layer = random_layer(O, I, R, dtype)
    exact = reference.weight_norm(layer.W, layer.A, layer.B, SCALING)
    assert_close("norm", norm(layer), plain_weight_norm(layer), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_update_gives_the_norm_of_the_base_bit_for_bit(norm: Norm, dtype: torch.dtype) -> None:
    layer = random_layer(63, 100, 16, dtype)
    layer = layer._replace(B=torch.zeros_like(layer.B))
    assert torch.equal(norm(layer), layer.base.norm_squared_O.sqrt())


@pytest.mark.parametrize("left", [0.2, 1e-2, 1e-3, 1e-5])
def test_cancelling_rows_are_recomputed_densely(norm: Norm, left: float) -> None:
    layer = random_layer(40, 300, 40, torch.float32)
    direction = torch.randn(300, generator=torch.Generator().manual_seed(1))
    layer.A[0] = direction
    layer.B[7] = 0
    layer.B[7, 0] = 1 / SCALING
    layer.W[7] = -direction * (1 + left)
    found = norm(layer)
    exact = reference.weight_norm(layer.W, layer.A, layer.B, SCALING)
    # Forming V loses left digits too: a difference of numbers of size 1 that is left / eps long.
    torch.testing.assert_close(found[7].double(), exact[7], rtol=4 * 2**-24 / left, atol=0)
    assert_close("all rows", found, plain_weight_norm(layer), exact)


def test_zero_rows_have_norm_zero(norm: Norm) -> None:
    layer = random_layer(50, 90, 2, torch.float32)
    layer.W[3], layer.B[3] = 0, 0
    layer.W[4] *= 1e-8
    layer.B[4] = 0
    found = norm(layer)
    assert found[3] == 0
    assert found[4] == 0
    assert (found > 0).sum() == 48


def test_a_row_of_zeros_that_the_update_fills(norm: Norm) -> None:
    layer = random_layer(50, 90, 2, torch.float32)
    layer.W[3] = 0
    exact = reference.weight_norm(layer.W, layer.A, layer.B, SCALING)
    assert_close("norm", norm(layer), plain_weight_norm(layer), exact)


def test_transposed_weight(norm: Norm) -> None:
    """As transformers' Conv1D stores it."""
    layer = random_layer(50, 90, 7, torch.float32)
    layer.W[3], layer.B[3] = 0, 0
    transposed = layer._replace(W=layer.W.T.contiguous().T)
    torch.testing.assert_close(norm(transposed), norm(layer), rtol=1e-6, atol=0)

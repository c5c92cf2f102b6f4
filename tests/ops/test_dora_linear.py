from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from doratune.ops import dora_linear, weight_norm
from doratune.ops.dora_linear import eager, reference
from tests.accuracy import assert_as_accurate
from tests.ops.layers import SCALING, Layer, plain_weight_norm, random_layer

SHAPES = [(1, 1, 1, 1), (5, 63, 100, 7), (63, 100, 63, 16), (37, 300, 1000, 64), (2, 1000, 300, 16)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAMES = ("x", "A", "B", "m")


def fast(layer: Layer, x: Tensor, dropout_p: float = 0.0, through_base: bool = True) -> Tensor:
    norm = weight_norm(layer.base, layer.A, layer.B, SCALING)
    result = F.linear(x, layer.W, layer.bias)
    return epilogue(layer, result, x, norm, dropout_p, through_base)


def epilogue(
    layer: Layer,
    result: Tensor,
    x: Tensor,
    norm: Tensor,
    dropout_p: float = 0,
    through_base: bool = True,
) -> Tensor:
    factors = (layer.A, layer.B, layer.m, norm, SCALING, layer.bias, dropout_p)
    return dora_linear(result, x, layer.W if through_base else layer.base.rows, *factors)


def plain(layer: Layer, x: Tensor, dropped: Tensor) -> Tensor:
    """DoRA as one would write it, in the precision of W and through autograd."""
    dtype = layer.W.dtype
    g = (layer.m / plain_weight_norm(layer).detach().float()).to(dtype)
    low = SCALING * (dropped @ layer.A.to(dtype).T) @ layer.B.to(dtype).T
    y = g * (F.linear(x, layer.W) + low)
    return y if layer.bias is None else y + layer.bias


def leaves(layer: Layer, x: Tensor, dtype: torch.dtype | None = None) -> tuple[Layer, Tensor]:
    copies = [t.detach().to(dtype or t.dtype).clone().requires_grad_() for t in (x, *layer[1:4])]
    return layer._replace(A=copies[1], B=copies[2], m=copies[3]), copies[0]


def gradients(layer: Layer, x: Tensor) -> tuple[Tensor | None, ...]:
    return (x.grad, layer.A.grad, layer.B.grad, layer.m.grad)


def check(layer: Layer, x: Tensor, dropped_share: float = 0.0, through_base: bool = True) -> None:
    """Output and every gradient against the float64 definition."""
    a, xa = leaves(layer, x)
    b, xb = leaves(layer, x)
    c, xc = leaves(layer, x, torch.float64)
    keep = torch.ones_like(x)
    if dropped_share:
        torch.manual_seed(7)
        share = round(dropped_share * 2**16) / 2**16
        keep = eager.draw_mask(x, share).to(x.dtype) / (1 - share)
    torch.manual_seed(7)
    found = fast(a, xa, dropped_share, through_base)
    usual = plain(b, xb, xb * keep)
    exact = reference.dora_linear(xc, c.W, c.A, c.B, c.m, SCALING, c.bias, xc * keep.double())
    dy = torch.randn(found.shape, generator=torch.Generator().manual_seed(3)).to(found.dtype)
    found.backward(dy)
    usual.backward(dy)
    exact.backward(dy.double())
    assert found.dtype == x.dtype
    assert_as_accurate("y", found, usual, exact, x.dtype)
    for name, *three in zip(
        NAMES, gradients(a, xa), gradients(b, xb), gradients(c, xc), strict=True
    ):
        assert_as_accurate(f"d{name}", *three, x.dtype)
    assert a.m.grad is not None
    assert a.m.grad.dtype == torch.float32


def tokens(T: int, I: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(T, I, generator=torch.Generator().manual_seed(11)).to(dtype)


@pytest.mark.parametrize("through_base", [False, True], ids=["rows", "weight"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "O", "I", "R"), SHAPES)
def test_values_and_gradients(
    T: int, O: int, I: int, R: int, dtype: torch.dtype, bias: bool, through_base: bool
) -> None:
    check(random_layer(O, I, R, dtype, bias), tokens(T, I, dtype), through_base=through_base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dropout_is_on_the_low_rank_branch_only(dtype: torch.dtype) -> None:
    check(random_layer(63, 100, 7, dtype, bias=True), tokens(40, 100, dtype), dropped_share=0.3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_an_untrained_adapter_changes_no_bit(dtype: torch.dtype, bias: bool) -> None:
    layer = random_layer(63, 100, 16, dtype, bias)
    layer = layer._replace(B=torch.zeros_like(layer.B))
    layer = layer._replace(m=weight_norm(layer.base, layer.A, layer.B, SCALING))
    x = tokens(20, 100, dtype)
    assert torch.equal(fast(layer, x, 0.5), F.linear(x, layer.W, layer.bias))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_batch(dtype: torch.dtype) -> None:
    layer, x = leaves(random_layer(6, 5, 2, dtype, bias=True), torch.empty(0, 5, dtype=dtype))
    y = fast(layer, x, 0.1)
    y.sum().backward()
    assert y.shape == (0, 6)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(layer, x) if g is not None)


def test_leading_dimensions_and_strides() -> None:
    layer, flat = leaves(
        random_layer(6, 5, 2, torch.float32, bias=True), tokens(12, 5, torch.float32)
    )
    strided = flat.view(3, 4, 5).transpose(0, 1)
    y = fast(layer, strided)
    y.transpose(0, 1).backward(torch.ones(3, 4, 6))
    again, x = leaves(layer, flat)
    expected = fast(again, x)
    expected.backward(torch.ones(12, 6))
    torch.testing.assert_close(y.transpose(0, 1).reshape(12, 6), expected)
    for one, other in zip(gradients(layer, flat), gradients(again, x), strict=True):
        torch.testing.assert_close(one, other)


def test_zero_row_keeps_scale_one_and_no_magnitude_gradient() -> None:
    layer = random_layer(6, 5, 2, torch.float32)
    layer.W[2], layer.B[2], layer.m[2] = 0, 0, 0
    layer, x = leaves(layer, tokens(4, 5, torch.float32))
    y = fast(layer, x)
    y.sum().backward()
    assert torch.equal(y[:, 2], torch.zeros(4))
    assert layer.m.grad is not None
    assert layer.m.grad[2] == 0
    assert layer.B.grad is not None
    assert layer.B.grad[2].abs().sum() > 0, "the row can still be trained"


@pytest.mark.parametrize("through_base", [False, True], ids=["rows", "weight"])
@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e-4])
def test_magnitude_near_zero_has_its_gradient(magnitude: float, through_base: bool) -> None:
    layer = random_layer(63, 100, 7, torch.float32, bias=True)
    layer.m[5] = magnitude
    check(layer, tokens(9, 100, torch.float32), through_base=through_base)


@pytest.mark.parametrize("through_base", [False, True], ids=["rows", "weight"])
def test_a_trained_bias_has_its_gradient(through_base: bool) -> None:
    layer = random_layer(63, 100, 7, torch.float32, bias=True)
    assert layer.bias is not None
    layer = layer._replace(bias=layer.bias.requires_grad_())
    x = tokens(9, 100, torch.float32)
    dy = torch.randn(9, 63, generator=torch.Generator().manual_seed(3))
    fast(layer, x, through_base=through_base).backward(dy)
    torch.testing.assert_close(layer.bias.grad, dy.sum(0))


def test_frozen_parts_get_no_gradient_and_need_none() -> None:
    layer = random_layer(6, 5, 2, torch.float32)
    layer = layer._replace(m=layer.m.requires_grad_())
    x = tokens(4, 5, torch.float32)
    fast(layer, x).sum().backward()
    assert layer.m.grad is not None
    assert x.grad is None
    assert layer.A.grad is None


def test_writes_into_the_base_result() -> None:
    layer = random_layer(6, 5, 2, torch.float32)
    x = tokens(4, 5, torch.float32)
    result = F.linear(x, layer.W)
    norm = weight_norm(layer.base, layer.A, layer.B, SCALING)
    y = epilogue(layer, result, x, norm)
    assert y.data_ptr() == result.data_ptr()


def test_a_base_result_somebody_saved_is_an_error_not_a_wrong_gradient() -> None:
    layer = random_layer(6, 5, 2, torch.float32)
    x = tokens(4, 5, torch.float32).requires_grad_()
    result = F.linear(x, layer.W)
    other = result.square()  # keeps `result` for its backward
    norm = weight_norm(layer.base, layer.A, layer.B, SCALING)
    epilogue(layer, result, x, norm)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.sum().backward()


def test_wider_input_than_result() -> None:
    """Under autocast x is float32 and the base result bf16."""
    layer = random_layer(63, 100, 7, torch.bfloat16)
    x = tokens(9, 100, torch.float32).requires_grad_()
    norm = weight_norm(layer.base, layer.A, layer.B, SCALING)
    with torch.autocast("cpu", torch.bfloat16):
        result = F.linear(x, layer.W)
        y = epilogue(layer, result, x, norm)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pieces_of_a_batch_give_what_the_whole_gives(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    y, dy = (torch.randn(37, 20, generator=draw).to(dtype) for _ in range(2))
    x, g, bias = (torch.randn(size, generator=draw) for size in ((37, 12), (20,), (20,)))
    A_IR, B_RO = torch.randn(12, 3, generator=draw), torch.randn(3, 20, generator=draw)
    results = []
    for piece in (eager.PIECE, 100):  # 8 pieces, the last of 2 rows
        monkeypatch.setattr(eager, "PIECE", piece)
        scaled, inferred = y.clone(), y.clone()
        eager.scale_up_(scaled, torch.zeros(37, 3, dtype=dtype), B_RO.T.to(dtype), g, bias)
        eager.infer_(inferred, x.to(dtype), A_IR, B_RO, 0.5, g, bias)
        results.append((scaled, inferred, *eager.scale_grad(dy, y, g, bias, True)))
    for whole, pieces in zip(*results, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)

"""The whole op and its compiled form on the kernels, with nothing left to the eager backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from doratune.ops import dora_linear, launch, registered, weight_norm
from doratune.ops.dora_linear import eager, reference
from tests.ops.layers import SCALING, Layer, plain_weight_norm, random_layer
from tests.ops.triton_device import DEVICE, INTERPRETED, assert_close

NAMES = ("y", "dx", "dA", "dB", "dm")


@pytest.fixture(autouse=True)
def _kernels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter a CPU tensor counts as a GPU's; and eager is out of reach."""
    if INTERPRETED:
        monkeypatch.setattr(launch, "uses_triton", lambda like: like.dtype in launch.DTYPES)

    def refuse(*_: object) -> None:
        raise AssertionError("the eager backend ran")

    for name in ("scale_up_", "scale_grad", "draw_mask", "dropout"):
        monkeypatch.setattr(eager, name, refuse)


def moved(layer: Layer, dtype: torch.dtype | None = None) -> Layer:
    """On the device, A, B and m as leaves."""
    A, B, m = (t.detach().to(DEVICE, dtype, copy=True).requires_grad_() for t in layer[1:4])
    bias = None if layer.bias is None else layer.bias.to(DEVICE)
    return Layer(layer.W.to(DEVICE), A, B, m, bias)


def results(y: Tensor, x: Tensor, layer: Layer, dy: Tensor) -> tuple[Tensor | None, ...]:
    y.backward(dy.to(y.dtype))
    return (y, x.grad, layer.A.grad, layer.B.grad, layer.m.grad)


@pytest.mark.parametrize("form", ["function", "rows", "registered"])
@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values_and_gradients(dtype: torch.dtype, p: float, form: str) -> None:
    layer = random_layer(63, 100, 7, dtype, bias=True)
    if form != "rows":
        layer.m[5], layer.m[6] = 0, 1e-4  # the kernel for small scales has work
    x = torch.randn(2, 20, 100, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    xs = [x.clone().to(d).requires_grad_() for d in (dtype, dtype, torch.float64)]
    ours, plain, exact = moved(layer), moved(layer), moved(layer, torch.float64)
    dy = torch.randn(2, 20, 63, generator=torch.Generator().manual_seed(3)).to(DEVICE, dtype)

    torch.manual_seed(7)
    result = F.linear(xs[0], ours.W, ours.bias)
    w2 = ours.W.float().square().sum(1)
    n = registered.weight_norm(w2, ours.W, ours.A, ours.B, SCALING)
    factors = (ours.A, ours.B, ours.m, n, SCALING, ours.bias, p)
    if form == "registered":
        y = registered.dora_linear(result, xs[0], *factors, ours.W)
    else:
        y = dora_linear(result, xs[0], ours.W if form == "function" else ours.base.rows, *factors)
    keep = mask_drawn(x, p, form)

    g = (plain.m / plain_weight_norm(plain).detach().float()).to(dtype)
    low = SCALING * ((xs[1] * keep) @ plain.A.to(dtype).T) @ plain.B.to(dtype).T
    assert plain.bias is not None
    usual = g * (F.linear(xs[1], plain.W) + low) + plain.bias
    definition = reference.dora_linear(
        xs[2], exact.W, exact.A, exact.B, exact.m, SCALING, exact.bias, xs[2] * keep.double()
    )
    three = (
        results(y, xs[0], ours, dy),
        results(usual, xs[1], plain, dy),
        results(definition, xs[2], exact, dy),
    )
    for name, *values in zip(NAMES, *three, strict=True):
        assert_close(name, *(value.detach() for value in values))


def mask_drawn(x: Tensor, p: float, form: str) -> Tensor:
    """What the op has multiplied x with: the seed is the first number drawn."""
    if not p:
        return torch.ones_like(x)
    from doratune.ops.dora_linear import triton

    torch.manual_seed(7)
    if form == "registered":
        seed = torch.randint(0, (1 << 63) - 1, (), dtype=torch.int64, device=x.device)
    else:
        seed = triton.draw_mask(x, p)
    return triton.dropout(torch.ones_like(x), p, seed) / (1 - p)


def test_the_norm_is_that_of_eager() -> None:
    layer = random_layer(63, 100, 7, torch.bfloat16)
    layer.W[3], layer.B[3] = 0, 0
    W, A, B = (t.to(DEVICE) for t in layer[:3])
    found = registered.weight_norm(W.float().square().sum(1), W, A, B, SCALING).cpu()
    torch.testing.assert_close(found, weight_norm(layer.base, layer.A, layer.B, SCALING))

"""The ops under ``torch.compile``: no graph break, and what eager computes."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from doratune import enable_fast_dora
from doratune.ops import registered, weight_norm
from doratune.ops.dora_linear import reference
from tests.accuracy import assert_as_accurate
from tests.ops.layers import SCALING, Layer, plain_weight_norm, random_layer
from tests.tiny import tiny_model

BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[pytest.mark.slow, pytest.mark.skipif(not shutil.which("g++"), reason="no g++")],
    ),
]
NAMES = ("x", "A", "B", "m")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def op_arguments(bias: bool, dropout_p: float, dense: bool) -> tuple[object, ...]:
    layer = random_layer(10, 8, 3, torch.float32, bias)
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    g = layer.m / weight_norm(layer.base, layer.A, layer.B, SCALING)
    g[2] = 0
    leaves = [t.requires_grad_() for t in (x, layer.A, layer.B, g)]
    base = F.linear(x.detach(), layer.W, layer.bias).requires_grad_(not dense)
    seed = torch.tensor(77) if dropout_p else None
    return (base, *leaves, layer.bias, seed, layer.W if dense else None, SCALING, dropout_p)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dense", [False, True], ids=["through base", "dense"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.25])
def test_registration(bias: bool, dense: bool, dropout_p: float) -> None:
    """Schema, aliasing, fake kernel, autograd and dynamic shapes, by PyTorch's own checks."""
    arguments = op_arguments(bias, dropout_p, dense)
    torch.library.opcheck(registered.dora_linear_op, arguments)
    bare = [t.detach() if isinstance(t, Tensor) else t for t in arguments]
    y, h = registered.dora_linear_op(*bare)
    for needs in (
        [not dense, True, True, True, True, bias],
        [False, False, True, False, True, False],
    ):
        given = (torch.randn_like(y), y, h, *bare[1:], needs)
        torch.library.opcheck(registered.dora_linear_backward_op, given)


def test_registration_of_the_norm() -> None:
    layer = random_layer(10, 8, 3, torch.bfloat16)
    arguments = (layer.base.norm_squared_O, layer.W, layer.A, layer.B, SCALING)
    torch.library.opcheck(registered.weight_norm_op, arguments)
    expected = weight_norm(layer.base, layer.A, layer.B, SCALING)
    assert torch.equal(registered.weight_norm(*arguments), expected)


def leaves(layer: Layer, x: Tensor, dtype: torch.dtype | None = None) -> tuple[Layer, Tensor]:
    copies = [t.detach().to(dtype or t.dtype).clone().requires_grad_() for t in (x, *layer[1:4])]
    return layer._replace(A=copies[1], B=copies[2], m=copies[3]), copies[0]


def ours(layer: Layer, x: Tensor, p: float, dense: bool) -> Tensor:
    result = F.linear(x, layer.W, layer.bias)
    base = (layer.W.float().square().sum(1), layer.W)
    n = registered.weight_norm(*base, layer.A, layer.B, SCALING)
    factors = (layer.A, layer.B, layer.m, n, SCALING, layer.bias, p)
    return registered.dora_linear(result, x, *factors, layer.W if dense else None)


def plain(layer: Layer, x: Tensor, kept: Tensor) -> Tensor:
    dtype = layer.W.dtype
    g = (layer.m / plain_weight_norm(layer).detach().float()).to(dtype)
    low = SCALING * ((x * kept) @ layer.A.to(dtype).T) @ layer.B.to(dtype).T
    y = g * (F.linear(x, layer.W) + low)
    return y if layer.bias is None else y + layer.bias


@pytest.mark.parametrize("dense", [False, True], ids=["through base", "dense"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients(dtype: torch.dtype, dropout_p: float, dense: bool) -> None:
    """Compiled, against the float64 definition; a magnitude near 0 where W is at hand to resolve it."""
    layer = random_layer(63, 100, 7, dtype, bias=True)
    if dense:
        layer.m[5], layer.m[6] = 0, 1e-4
    x = torch.randn(40, 100, generator=torch.Generator().manual_seed(1)).to(dtype)
    (a, xa), (b, xb), (c, xc) = leaves(layer, x), leaves(layer, x), leaves(layer, x, torch.float64)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.manual_seed(5)
    found = compiled(a, xa, dropout_p, dense)
    torch.manual_seed(5)
    kept = the_mask(x, dropout_p)
    usual = plain(b, xb, kept)
    exact = reference.dora_linear(xc, c.W, c.A, c.B, c.m, SCALING, c.bias, xc * kept.double())
    dy = torch.randn(found.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    for y in (found, usual, exact):
        y.backward(dy.to(y.dtype))
    assert_as_accurate("y", found, usual, exact, dtype)
    grads = [(x.grad, l.A.grad, l.B.grad, l.m.grad) for l, x in ((a, xa), (b, xb), (c, xc))]
    for name, *three in zip(NAMES, *grads, strict=True):
        assert_as_accurate(f"d{name}", *three, dtype)


def the_mask(x: Tensor, dropout_p: float) -> Tensor:
    """What the op multiplies x with: h for A = 1, which drawing the next seed gives."""
    if not dropout_p:
        return torch.ones_like(x)
    seed = torch.randint(0, (1 << 63) - 1, (), dtype=torch.int64)
    I = x.shape[1]
    eye, ones = torch.eye(I, dtype=x.dtype), torch.ones_like(x)
    base, B, g = ones[:, :1], torch.zeros(1, I), torch.ones(1)
    _, h = registered.dora_linear_op(base, ones, eye, B, g, None, seed, None, 1.0, dropout_p)
    share = (h == 0).double().mean()
    assert (share - dropout_p).abs() <= 5 * (dropout_p * (1 - dropout_p) / h.numel()) ** 0.5
    return h


def test_zero_row_gets_no_gradient() -> None:
    layer = random_layer(6, 5, 2, torch.float32)
    layer.W[2], layer.B[2], layer.m[2] = 0, 0, 0
    layer, x = leaves(layer, torch.randn(4, 5))
    ours(layer, x, 0.0, True).sum().backward()
    assert layer.m.grad is not None
    assert layer.m.grad[2] == 0
    assert layer.B.grad is not None
    assert layer.B.grad[2].abs().sum() > 0


def test_trained_bias() -> None:
    """With W at hand no gradient flows to the base result: the op owes the bias the whole of it."""
    grads = []
    for dense in (False, True):
        layer, x = leaves(random_layer(6, 5, 2, torch.float32, bias=True), torch.ones(4, 5))
        assert layer.bias is not None
        layer = layer._replace(bias=layer.bias.detach().requires_grad_())
        ours(layer, x, 0.0, dense).sum().backward()
        assert layer.bias is not None
        grads.append(layer.bias.grad)
    torch.testing.assert_close(grads[0], torch.full((6,), 4.0))
    torch.testing.assert_close(grads[1], grads[0])


def peft_model(dropout_p: float) -> nn.Module:
    config = LoraConfig(
        use_dora=True,
        r=4,
        lora_dropout=dropout_p,
        target_modules="all-linear",
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(num_hidden_layers=1), config)
    enable_fast_dora(model)
    return model


def loss_and_gradients(model: nn.Module, ids: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [loss.detach(), *grads]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_peft_model(backend: str) -> None:
    """Loss and every gradient, training and evaluation, without a graph break."""
    model = peft_model(0.0)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend=backend)
    ids = torch.randint(0, 400, (2, 17))
    for mode in (True, False):
        model.train(mode)
        compiled.train(mode)
        pairs = zip(loss_and_gradients(compiled, ids), loss_and_gradients(model, ids), strict=True)
        for found, expected in pairs:
            distance = (found - expected).norm() / expected.norm()
            # float32 sums in another order, through a layer
            assert distance <= 100 * torch.finfo(torch.float32).eps
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        torch.testing.assert_close(compiled(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_of_a_peft_model(backend: str) -> None:
    """Drawn anew at every step, and again the same from the same generator state."""
    compiled = torch.compile(peft_model(0.05), fullgraph=True, backend=backend)
    ids = torch.randint(0, 400, (2, 17))
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append([loss_and_gradients(compiled, ids)[0].item() for _ in range(3)])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_layers_with_one_input_draw_their_own_masks() -> None:
    """q, k and v call the op with equal x and p: a compiler may merge what it takes for equal calls."""

    def two(x: Tensor, base: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        ones = torch.ones(A.shape[1])
        first = registered.dora_linear(base, x, A, B, ones, ones, 1.0, None, 0.5)
        return first, registered.dora_linear(base, x, A, B, ones, ones, 1.0, None, 0.5)

    eye = torch.eye(16)
    one, other = torch.compile(two, fullgraph=True, backend="aot_eager")(
        torch.ones(16, 16), torch.zeros(16, 16), eye, eye
    )
    assert not torch.equal(one, other)

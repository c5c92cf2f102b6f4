"""The kernels against float64 and, for the tolerance, against their eager twins."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from doratune.ops.dora_linear import eager, steps
from tests.ops.triton_device import DEVICE, assert_close

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1), (63, 100, 7), (100, 63, 16), (37, 300, 64), (5, 1000, 100), (130, 257, 1)]


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    from doratune.ops.dora_linear import triton

    return triton


class Case:
    """Inputs of every kernel; norms of order 1, scales within 30 %, and exactly 0 and 1."""

    def __init__(self, T: int, O: int, R: int, dtype: torch.dtype, bias: bool) -> None:
        draw = torch.Generator().manual_seed(T + O + R)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw).to(DEVICE)

        self.y, self.dy = normal(T, O).to(dtype), normal(T, O).to(dtype)
        self.h, self.gB = normal(T, R).to(dtype), (normal(O, R) / R**0.5).to(dtype)
        self.g = 1 + 0.1 * normal(O)
        self.g[0] = 0
        self.bias = normal(O).to(dtype) if bias else None

    def exact_output(self) -> Tensor:
        bias = 0 if self.bias is None else self.bias.double()
        return (
            self.g.double() * (self.y.double() - bias) + bias + self.h.double() @ self.gB.double().T
        )

    def exact_sum(self) -> Tensor:
        bias = 0 if self.bias is None else self.bias.double()
        return (self.dy.double() * (self.y.double() - bias)).sum(0)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "O", "R"), SHAPES)
def test_values(
    kernels: ModuleType, T: int, O: int, R: int, dtype: torch.dtype, bias: bool
) -> None:
    case = Case(T, O, R, dtype, bias)
    found, usual = case.y.clone(), case.y.clone()
    kernels.scale_up_(found, case.h, case.gB, case.g, case.bias)
    eager.scale_up_(usual, case.h, case.gB, case.g, case.bias)
    assert_close("y", found, usual, case.exact_output())

    dbase, dg = kernels.scale_grad(case.dy, case.y, case.g, case.bias, True)
    usual_dbase, usual_dg = eager.scale_grad(case.dy, case.y, case.g, case.bias, True)
    assert (dbase.dtype, dg.dtype) == (dtype, torch.float32)
    assert_close("dbase", dbase, usual_dbase, case.dy.double() * case.g.double())
    assert_close("dg", dg, usual_dg, case.exact_sum())


def test_the_sum_over_many_tokens(kernels: ModuleType) -> None:
    """More tokens than one program sums, and not a multiple of its share."""
    case = Case(1100, 20, 4, torch.float32, bias=True)
    _, dg = kernels.scale_grad(case.dy, case.y, case.g, case.bias, True)
    _, usual = eager.scale_grad(case.dy, case.y, case.g, case.bias, True)
    assert_close("dg", dg, usual, case.exact_sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_update_changes_no_bit(kernels: ModuleType, dtype: torch.dtype) -> None:
    case = Case(40, 63, 16, dtype, bias=True)
    found = case.y.clone()
    kernels.scale_up_(found, case.h, torch.zeros_like(case.gB), torch.ones_like(case.g), case.bias)
    assert torch.equal(found, case.y)


def test_strides(kernels: ModuleType) -> None:
    case = Case(40, 63, 16, torch.float32, bias=True)
    other = Case(40, 63, 16, torch.float32, bias=True)
    other.y, other.dy, other.h, other.gB = (
        t.T.contiguous().T for t in (case.y, case.dy, case.h, case.gB)
    )
    found = [torch.cat(kernels.scale_grad(c.dy, c.y, c.g, c.bias, True)[1:]) for c in (case, other)]
    assert torch.equal(*found)
    for c in (case, other):
        kernels.scale_up_(c.y, c.h, c.gB, c.g, c.bias)
    assert torch.equal(case.y, other.y)
    expanded = torch.ones(1, 1, device=DEVICE).expand(40, 63)
    dbase, _ = kernels.scale_grad(expanded, case.y, case.g, None, True)
    assert torch.equal(dbase, case.g.expand(40, 63))


def test_nothing_to_do(kernels: ModuleType) -> None:
    case = Case(0, 6, 2, torch.float32, bias=True)
    kernels.scale_up_(case.y, case.h, case.gB, case.g, case.bias)
    dbase, dg = kernels.scale_grad(case.dy, case.y, case.g, case.bias, True)
    assert dbase.shape == (0, 6)
    assert torch.equal(dg, torch.zeros_like(case.g))
    assert kernels.scale_grad(case.dy, case.y, case.g, case.bias, False)[0] is None
    assert kernels.dropout(case.y, 0.5, kernels.draw_mask(case.y, 0.5)).shape == (0, 6)


def test_float64_is_refused(kernels: ModuleType) -> None:
    case = Case(3, 6, 2, torch.float64, bias=False)
    with pytest.raises(TypeError, match=r"not torch\.float64: use eager"):
        kernels.scale_up_(case.y, case.h, case.gB, case.g, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.05, 0.5, 1.0])
def test_dropout(kernels: ModuleType, dtype: torch.dtype, p: float) -> None:
    x = torch.ones(63, 301, dtype=dtype, device=DEVICE)
    torch.manual_seed(3)
    seeds = [kernels.draw_mask(x, p) for _ in range(2)]
    kept = kernels.dropout(x, p, seeds[0])
    n = x.numel()
    assert (kept.double().mean() - (1 - p)).abs() <= 5 * math.sqrt(p * (1 - p) / n)
    assert torch.equal(kernels.dropout(x, p, seeds[0], out=x.clone()), kept)
    assert ((kept == 0) | (kept == 1)).all()
    if p < 1:
        assert not torch.equal(kernels.dropout(x, p, seeds[1]), kept)
        # Neighbours, also those that share a counter, are independent.
        flat = kept.double().flatten()
        for step in (1, 2, 3, 4, 301):
            both = ((flat[step:] - 1 + p) * (flat[:-step] - 1 + p)).mean()
            assert both.abs() <= 5 * p * (1 - p) / math.sqrt(n - step)


def test_the_mask_depends_on_the_seed_alone(kernels: ModuleType) -> None:
    """Not on dtype, shape or the size of a program's block."""
    seed = torch.tensor(1234567890123, device=DEVICE)
    x = torch.ones(5000, device=DEVICE)
    kept = kernels.dropout(x, 0.3, seed)
    assert torch.equal(
        kernels.dropout(x.bfloat16().view(50, 100), 0.3, seed).float().flatten(), kept
    )
    small = torch.empty_like(x)
    threshold = round(0.3 * 2**32) - 2**31
    kernels._dropout_kernel[(40,)](x, small, seed, 5000, threshold, BLOCK=128)
    assert torch.equal(small, kept)
    assert not torch.equal(kernels.dropout(x, 0.3, seed + (1 << 40)), kept), "all 64 bits count"


def test_the_seed_comes_from_the_default_generator(kernels: ModuleType) -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(11)
        drawn.append(
            [kernels.draw_mask(torch.ones(2, device=DEVICE), 0.1).item() for _ in range(2)]
        )
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_with_a_small_scale(dtype: torch.dtype) -> None:
    """The kernel that replaces the host's look at g, on the rows with a small scale and no others."""
    from doratune.ops.dora_linear.triton_small import repair_small_

    T, O, I, R = 45, 70, 100, 7
    case = Case(T, O, R, dtype, bias=False)
    x, W = (torch.randn(n, I).to(dtype).to(DEVICE) for n in (T, O))
    sB = torch.randn(O, R, device=DEVICE)
    case.g[33], case.g[69] = 1e-3, -1e-9
    dg = torch.full((O,), 5.0, device=DEVICE)
    repair_small_(dg, case.dy, x, W, case.h, sB, case.g, steps.SMALL_SCALE)
    unscaled = x.double() @ W.double().T + case.h.double() @ sB.double().T
    exact = (case.dy.double() * unscaled).sum(0)
    usual = (case.dy.float() * (x.float() @ W.float().T + case.h.float() @ sB.T)).sum(0)
    small = [0, 33, 69]
    assert_close("dg", dg[small], usual[small], exact[small])
    dg[small] = 5.0
    assert (dg == 5.0).all()


def test_the_same_bits_twice(kernels: ModuleType) -> None:
    torch.use_deterministic_algorithms(True)
    case = Case(300, 70, 16, torch.float32, bias=True)
    results = []
    for _ in range(2):
        y = case.y.clone()
        kernels.scale_up_(y, case.h, case.gB, case.g, case.bias)
        results.append((y, *kernels.scale_grad(case.dy, y, case.g, case.bias, True)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))

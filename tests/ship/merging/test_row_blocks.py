from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from doratune.adapter import LayerDelta
from doratune.errors import ModelError
from doratune.ship.merging import row_blocks
from doratune.ship.merging.checkpoint_file import TensorRows
from doratune.ship.merging.row_blocks import Part, cast_rows, merge_rows
from doratune.ship.merging.weight import merged_weight

# As in test_weight: a value may be off by 16 roundings of the largest.
RELATIVE = 16 * 2**-24
SHAPES: dict[str, dict[str, Any]] = {
    "linear": {},
    "transposed": {"fan_in_fan_out": True},
    "convolution": {"kernel": (3, 2)},
    "experts": {"num_experts": 3},
    "transposed experts": {"num_experts": 3, "fan_in_fan_out": True},
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of the linear layer below, so that every tensor has several pieces and a rest."""
    monkeypatch.setattr(row_blocks, "BLOCK_ELEMENTS", 37 * 2)


def case(kind: str, seed: int = 0, dora: bool = True) -> tuple[Tensor, LayerDelta]:
    torch.manual_seed(seed)
    fields: dict[str, Any] = {"fan_in_fan_out": False, **SHAPES[kind]}
    E, K = fields.get("num_experts", 1), 6 if "kernel" in fields else 1
    A, B = torch.randn(2 * E, 37 * K), 0.3 * torch.randn(10, 2 * E)
    m = torch.rand(10) + 0.5 if dora and E == 1 else None
    delta = LayerDelta(A, B, m, 1.5, **fields)
    torch.manual_seed(9)
    return torch.randn(delta.weight_shape), delta


def merged(weight: Tensor, parts: list[Part], dtype: torch.dtype = torch.float32) -> Tensor:
    out = torch.full((weight.numel(),), torch.nan, dtype=dtype)

    def write(first: int, block: Tensor) -> None:
        out[first : first + block.numel()] = block.reshape(-1)

    merge_rows("w", TensorRows(weight), parts, dtype, write)
    return out.view(weight.shape)


def literal(weight: Tensor, delta: LayerDelta) -> Tensor:
    """W' in float64, entry by entry as PEFT's documentation of each kind says it."""
    A, B, W = delta.A.double(), delta.B.double(), weight.double()
    if delta.num_experts > 1:
        A_ERI, B_ORE = A.reshape(3, 2, -1), B.reshape(10, 2, 3)
        form = "ore,eri->eio" if delta.fan_in_fan_out else "ore,eri->eoi"
        return W + delta.scaling * torch.einsum(form, B_ORE, A_ERI)
    change = (B @ A).T if delta.fan_in_fan_out else (B @ A).reshape(W.shape)
    V = W + delta.scaling * change
    if delta.magnitude is None:
        return V
    dims = (0,) if delta.fan_in_fan_out else tuple(range(1, V.ndim))
    shape = (1, -1) if delta.fan_in_fan_out else (-1,) + (1,) * (V.ndim - 1)
    return delta.magnitude.double().view(shape) * V / V.square().sum(dims, keepdim=True).sqrt()


@pytest.mark.parametrize("dora", [True, False])
@pytest.mark.parametrize("kind", SHAPES)
def test_every_kind_in_blocks_is_its_definition(kind: str, dora: bool) -> None:
    weight, delta = case(kind, dora=dora)
    expected = literal(weight, delta)
    for found in (merged(weight, [Part(delta)]), merged_weight(weight, delta)):
        assert found.shape == weight.shape
        assert (found - expected).abs().max() <= RELATIVE * expected.abs().max()
    torch.testing.assert_close(
        merged_weight(weight, delta, torch.float64), expected, rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("kind", SHAPES)
def test_several_adapters_each_against_the_same_base(kind: str) -> None:
    weight, first = case(kind)
    second, third = case(kind, seed=1)[1], case(kind, seed=2, dora=False)[1]
    parts = [Part(first, 0.7), Part(second, -0.2), Part(third, 1.0)]
    W = weight.double()
    expected = W + sum(part.weight * (literal(weight, part.delta) - W) for part in parts)
    found = merged(weight, parts)
    assert (found - expected).abs().max() <= RELATIVE * expected.abs().max()
    half = merged(weight, [Part(first, 0.5)])
    expected = W + 0.5 * (literal(weight, first) - W)
    assert (half - expected).abs().max() <= RELATIVE * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", SHAPES)
def test_rounded_once(kind: str, dtype: torch.dtype) -> None:
    weight, delta = case(kind)
    stored = weight.to(dtype)
    full = merged(stored.float(), [Part(delta)])
    assert torch.equal(merged(stored, [Part(delta)], dtype), full.to(dtype))


@pytest.mark.parametrize("kind", ["linear", "transposed"])
@pytest.mark.parametrize("last", [True, False])
def test_a_row_that_counts_as_zero_beside_a_later_block_keeps_g_1(kind: str, last: bool) -> None:
    weight, delta = case(kind)
    rows = weight if kind == "linear" else weight.T
    row = 9 if last else 0
    rows[row], delta.B[row], rows[5] = 1e-9, 0, 100
    rows[3], delta.B[3] = 0, 0
    found = merged(weight, [Part(delta)])
    assert (found - merged_weight(weight, delta)).abs().max() <= RELATIVE * found.abs().max()
    found = found if kind == "linear" else found.T
    assert torch.equal(found[row], rows[row])
    assert not found[3].any()
    summed = merged(weight, [Part(delta, 0.5)])
    summed = summed if kind == "linear" else summed.T
    assert torch.equal(summed[row], rows[row])


def test_values_beyond_the_precision_are_refused() -> None:
    weight, delta = case("linear", dora=False)
    weight[7, 1] = 70000
    with pytest.raises(
        ModelError, match=r"w holds values up to (69|70)\d{3}[.\d]*, and torch.float16 ends"
    ):
        merged(weight, [Part(delta)], torch.float16)
    with pytest.raises(ModelError, match=r"w holds values up to 70000, and torch.float16 ends"):
        cast_rows("w", TensorRows(weight), weight.numel(), torch.float16, lambda *block: None)


def test_what_is_not_finite_in_the_base_stays_so() -> None:
    weight, delta = case("linear", dora=False)
    weight[7, 1], weight[8, 2] = torch.nan, torch.inf
    found = merged(weight, [Part(delta)], torch.float16)
    assert found[7, 1].isnan()
    assert found[8, 2].isinf()

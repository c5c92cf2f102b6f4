from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from doratune.errors import ModelError
from doratune.ship.export.quantized_check import Levels, check_layer, compare_quantized, levels
from tests.tiny import tiny_model

STEP = 0.25


def weight(seed: int = 0) -> Tensor:
    return torch.randn(16, 128, generator=torch.Generator().manual_seed(seed))


def rounded(W: Tensor, largest: float = 8.0) -> Levels:
    """To multiples of a step, and none beyond the largest."""
    return Levels((W / STEP).round().mul(STEP).clamp(-largest, largest), torch.full((1, 1), STEP))


def test_rounding_loses_no_magnitude() -> None:
    W = weight()
    found, clipped = check_layer("q", W, rounded(W), W.norm(dim=1))
    error = (rounded(W).W_OI - W).norm() / W.norm()
    assert found.weight_error == pytest.approx(error.item())
    assert (found.num_rows_beyond, found.num_clipped, clipped) == (0, 0, None)
    assert 0 < found.norm_error < found.norm_limit
    assert (found.num_rows, found.num_weights) == (16, 16 * 128)


def test_rounding_up_or_down_at_will_is_allowed() -> None:
    """As by a quantiser that tunes its rounding: either neighbour, by the toss of a coin."""
    W = weight()
    coin = torch.randint(0, 2, W.shape, generator=torch.Generator().manual_seed(1))
    found, clipped = check_layer(
        "q", W, Levels(((W / STEP).floor() + coin) * STEP, torch.tensor(STEP)), W.norm(dim=1)
    )
    assert (found.num_rows_beyond, clipped) == (0, None)


def test_an_outlier_that_is_clipped_is_named() -> None:
    W = weight()
    W[3, 5], W[9, 7] = 40.0, -9.0
    found, clipped = check_layer("q", W, rounded(W), W.norm(dim=1))
    assert clipped is not None
    lost, worst = clipped
    assert (worst.layer, worst.row, worst.weight, worst.quantized) == ("q", 3, 40.0, 8.0)
    assert lost == pytest.approx(32 / W[3].norm().item())
    assert found.num_clipped == 2
    assert found.num_rows_beyond == 1  # row 9 lost too little
    norm = rounded(W).W_OI[3].norm()
    assert found.norm_error == pytest.approx(1 - (norm / W[3].norm()).item(), rel=1e-5)


def test_norms_are_held_against_the_magnitudes() -> None:
    W = weight()
    m = W.norm(dim=1)
    m[2] *= 2
    found, _ = check_layer("q", W, rounded(W), m)
    assert found.num_rows_beyond == 1
    assert found.norm_error == pytest.approx(0.5, abs=0.01)


def test_a_row_of_zeros_has_nothing_to_lose() -> None:
    W = weight()
    W[4] = 0
    found, _ = check_layer("q", W, rounded(W), W.norm(dim=1))
    assert (found.num_rows_beyond, found.norm_error < 0.1) == (0, True)


@pytest.mark.parametrize("nested", [False, True])
def test_levels_of_nf4(nested: bool) -> None:
    """Every weight lies between two levels that are a step apart, or where rounding put the largest."""
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(128, 16, quant_type="nf4", compress_statistics=nested)
    W = weight()
    layer.weight = bnb.nn.Params4bit(W.clone(), quant_type="nf4", compress_statistics=nested)
    found = levels(layer.to("cpu"), W)
    assert (found.W_OI - W).norm() / W.norm() == pytest.approx(0.092, abs=0.01)
    assert ((found.W_OI - W).abs() <= 0.75 * found.step_OI).all()
    assert ((found.W_OI - W).abs() / found.step_OI).mean() == pytest.approx(0.25, abs=0.03)
    _, clipped = check_layer("q", W, found, W.norm(dim=1))
    assert clipped is None


def test_levels_of_compressed_tensors() -> None:
    layer = nn.Linear(128, 16, bias=False)
    layer.weight_scale = nn.Parameter(torch.tensor([[0.5, -0.25]]).repeat(16, 1))
    found = levels(layer, layer.weight.detach())
    assert torch.equal(found.step_OI[0], torch.cat([torch.full((64,), s) for s in (0.5, 0.25)]))


def test_a_model_that_is_not_quantised_is_no_result() -> None:
    model = tiny_model()
    with pytest.raises(ModelError, match="holds no quantised layer, though it was to be quantised"):
        compare_quantized(model, model, {})

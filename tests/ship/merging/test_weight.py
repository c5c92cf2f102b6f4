from __future__ import annotations

import pytest
import torch

from doratune.adapter import LayerDelta
from doratune.ship.merging.weight import merged_weight


def delta_of(O: int, I: int, R: int, *, dora: bool = True, transposed: bool = False):
    torch.manual_seed(0)
    W_OI, A_RI, B_OR = torch.randn(O, I), torch.randn(R, I), 0.3 * torch.randn(O, R)
    m_O = torch.rand(O) + 0.5 if dora else None
    return W_OI, LayerDelta(A_RI, B_OR, m_O, 1.5, transposed)


@pytest.mark.parametrize(("O", "I", "R"), [(1, 1, 1), (63, 100, 7), (300, 1000, 16)])
def test_rows_have_the_direction_of_v_and_the_norm_m(O: int, I: int, R: int) -> None:
    W_OI, delta = delta_of(O, I, R)
    V_OI = W_OI.double() + 1.5 * delta.B.double() @ delta.A.double()
    expected = delta.magnitude.double()[:, None] * V_OI / V_OI.square().sum(1, keepdim=True).sqrt()
    found = merged_weight(W_OI, delta)
    assert found.dtype == torch.float32
    # A value may be off by 16 roundings of the largest; it is some 3.
    assert (found - expected).abs().max() <= 16 * 2**-24 * expected.abs().max()
    torch.testing.assert_close(
        merged_weight(W_OI, delta, torch.float64), expected, rtol=0, atol=1e-13
    )


def test_lora_has_no_scale() -> None:
    W_OI, delta = delta_of(5, 8, 2, dora=False)
    expected = W_OI.double() + 1.5 * delta.B.double() @ delta.A.double()
    torch.testing.assert_close(
        merged_weight(W_OI, delta, torch.float64), expected, rtol=0, atol=1e-13
    )


def test_conv1d_weights_are_transposed() -> None:
    W_OI, delta = delta_of(5, 8, 2)
    found = merged_weight(W_OI.T.contiguous(), delta._replace(fan_in_fan_out=True))
    assert torch.equal(found, merged_weight(W_OI, delta).T)


def test_bfloat16_parts_are_computed_in_float32() -> None:
    W_OI, delta = delta_of(5, 8, 2)
    low = delta._replace(A=delta.A.bfloat16(), B=delta.B.bfloat16())
    high = low._replace(A=low.A.float(), B=low.B.float())
    found = merged_weight(W_OI.bfloat16(), low)
    assert torch.equal(found, merged_weight(W_OI.bfloat16().float(), high))


def test_zero_rows_keep_g_1_whatever_their_magnitude() -> None:
    W_OI, delta = delta_of(4, 8, 2)
    W_OI[1], delta.B[1], delta.magnitude[1] = 0, 0, 0.7
    W_OI[2], delta.B[2] = 1e-9, 0
    found = merged_weight(W_OI, delta)
    assert torch.equal(found[1], torch.zeros(8))
    assert torch.equal(found[2], W_OI[2])
    assert found.norm(dim=1)[[0, 3]].tolist() == pytest.approx(delta.magnitude[[0, 3]].tolist())


def test_an_all_zero_weight_stays_zero_without_nan() -> None:
    W_OI, delta = delta_of(4, 8, 2)
    found = merged_weight(0 * W_OI, delta._replace(B=0 * delta.B))
    assert torch.equal(found, torch.zeros(4, 8))

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from doratune.adapter.files import AdapterWeights, LayerDelta
from doratune.adapter.fit import (
    OTHER_BASE,
    OTHER_LAYER,
    distance,
    fit_problems,
    fit_to_folder,
    layer_fit,
    row_norms,
)


def norms(spread: float, n: int = 4000, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(n, generator=draw)).exp()


def test_the_distance_by_numpy() -> None:
    n, m = norms(0.3), norms(0.3) * norms(0.05, seed=1)
    log_m, log_n = np.log(m.double().numpy()), np.log(n.double().numpy())
    rms = [np.sqrt(np.mean((log_m - each) ** 2)) for each in (log_n, np.median(log_m))]
    expected = rms[0] / rms[1]
    assert distance([layer_fit("a", m, n)]) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(0.05 / 0.3, rel=0.1)


def test_untrained_and_unrelated_magnitudes() -> None:
    assert distance([layer_fit("a", norms(0.3), norms(0.3))]) == 0
    unrelated = distance([layer_fit("a", norms(0.3), norms(0.3, seed=1))])
    assert unrelated == pytest.approx(2**0.5, rel=0.05)
    assert list(fit_problems([layer_fit("a", norms(0.3), norms(0.3))], "b")) == []
    problems = list(fit_problems([layer_fit("a", norms(0.3), norms(0.3, seed=1))], "the base"))
    assert "do not belong to the weights of the base: their distance" in problems[0]
    assert f"at most {OTHER_BASE} was expected" in problems[0]


def test_all_magnitudes_beyond_reach() -> None:
    fit = layer_fit("a", 50 * norms(0.3), norms(0.3))
    assert distance([fit]) is None
    assert "4000 of 4000 magnitudes are far from" in next(fit_problems([fit], "base"))


def test_one_layer_of_another_place() -> None:
    """Among many that fit; too small a layer says nothing."""
    fits = [layer_fit(str(k), norms(0.3, 100, k), norms(0.3, 100, k)) for k in range(9)]
    swapped = layer_fit("9", norms(0.3, 100, 9), norms(0.3, 100, 10))
    problems = list(fit_problems([*fits, swapped], "the base"))
    assert len(problems) == 1
    assert (
        "layer 9: its magnitudes are not in the order of the norms of this layer in" in problems[0]
    )
    small = layer_fit("9", norms(0.3, 31, 9), norms(0.3, 31, 10))
    assert small.apart is None


@pytest.mark.parametrize("moved", [0.02, 0.3, 1.0])
def test_training_moves_no_layer_to_another_place(moved: float) -> None:
    """However far, and by a common factor too: what moved knows nothing of the norms."""
    for seed in range(20):
        n = norms(0.3, 64, seed)
        fit = layer_fit("a", 1.5 * n * norms(moved, 64, seed + 100), n)
        assert fit.apart is not None
        assert fit.apart < OTHER_LAYER


def test_no_spread_and_no_layers() -> None:
    assert distance([]) is None
    assert distance([layer_fit("a", torch.ones(5), torch.ones(5))]) is None
    assert distance([layer_fit("a", torch.ones(400), norms(0.3, 400))]) == float("inf")


@pytest.mark.parametrize(
    ("magnitude", "norm", "odd"),
    [
        (0.0, 1.0, True),
        (-1.0, 1.0, True),
        (16.0, 1.0, True),
        (1 / 16, 1.0, True),
        (2.0, 1.0, False),
        (0.0, 0.0, False),
        (0.02, 0.0, False),
        (-0.02, 0.01, False),
        (2.0, 0.0, True),
        (-2.0, 0.05, True),
    ],
)
def test_single_values(magnitude: float, norm: float, odd: bool) -> None:
    n = torch.tensor([0.3, 0.5, 0.7, 1.0, 1.0, 1.5, 2.0, 3.0, 4.0])
    m = n.clone()
    m[3], n[3] = magnitude, norm
    fit = layer_fit("some.layer", m, n)
    assert fit.odd == ([3] if odd else [])
    problems = list(fit_problems([fit], "the base"))
    assert bool(problems) == odd
    if odd:
        assert "layer some.layer: 1 of 9 magnitudes are far from" in problems[0]
        assert "that of output feature 3 is" in problems[0]


def test_against_a_checkpoint(tmp_path: Path) -> None:
    """Linear and Conv1D layers; what is LoRA, quantised or not there is left out."""
    W = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    save_file(
        {
            "a.weight": W,
            "b.weight": W.T.contiguous().half(),
            "c.weight": W.char(),
            "d.weight": 2 * W,
        },
        tmp_path / "model.safetensors",
    )

    def delta(m: torch.Tensor | None, turned: bool = False) -> LayerDelta:
        return LayerDelta(torch.ones(1, 4), torch.ones(6, 1), m, 1.0, turned)

    m = torch.linalg.vector_norm(W, dim=1)
    layers = {
        "a": delta(m),
        "prefix.b": delta(2 * m, turned=True),
        "c": delta(m),
        "d": delta(None),
        "e": delta(m),
    }
    fits = list(fit_to_folder(AdapterWeights({}, layers, {}), tmp_path))
    assert [fit.layer for fit in fits] == ["a", "prefix.b"]
    torch.testing.assert_close(fits[0].ratio_O, torch.ones(6))
    torch.testing.assert_close(fits[1].ratio_O, torch.full((6,), 2.0), rtol=1e-3, atol=0)


def test_row_norms_of_a_matrix_in_parts() -> None:
    W = torch.randn(5000, 2000, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(row_norms(W), torch.linalg.vector_norm(W.float(), dim=1))
    assert row_norms(W[:0]).shape == (0,)

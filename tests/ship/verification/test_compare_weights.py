from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from doratune.adapter import LayerDelta
from doratune.errors import StorageError
from doratune.ship.merging.checkpoint import Plan, plan_merge
from doratune.ship.merging.merge import merge
from doratune.ship.merging.weight import merged_weight
from doratune.ship.verification.compare_weights import (
    ARITHMETIC,
    compare_weights,
    norm_error,
    norm_threshold,
    weight_error,
)  # fmt: skip
from doratune.ship.verification.roundoff import ROUNDOFF
from tests.ship.adapters import edit_tensors, write_origin
from tests.tiny import tiny_model

DTYPES = ["float32", "bfloat16", "float16"]
LAYER = "model.layers.1.mlp.down_proj"


def random_layer(O: int, I: int) -> tuple[torch.Tensor, LayerDelta]:
    """A layer after a short training: V near W, and g within 0.98 and 1.02."""
    torch.manual_seed(0)
    W_OI = 0.05 * torch.randn(O, I)
    delta = LayerDelta(torch.randn(8, I) / I**0.5, 0.005 * torch.randn(O, 8), None, 2.0, False)
    g_O = 1 + 0.02 * (2 * torch.rand(O) - 1)
    norms_O = merged_weight(W_OI, delta, torch.float64).norm(dim=1)
    return W_OI, delta._replace(magnitude=(norms_O * g_O).float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (63, 100), (300, 1000)])
def test_correct_merges_are_within_and_damaged_ones_beyond(
    dtype: str, shape: tuple[int, int]
) -> None:
    W_OI, delta = random_layer(*shape)
    expected = merged_weight(W_OI, delta, torch.float64)

    def error(damaged: LayerDelta) -> float:
        return weight_error(merged_weight(W_OI, damaged).to(getattr(torch, dtype)), expected)

    assert error(delta) <= ARITHMETIC / 4
    if shape != (1, 1):
        assert error(delta._replace(magnitude=None)) > 100 * ARITHMETIC
        assert error(delta._replace(scaling=4.0)) > 100 * ARITHMETIC
        assert error(delta._replace(magnitude=1.0005 * delta.magnitude)) > 10 * ARITHMETIC


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_are_the_magnitudes(dtype: str) -> None:
    W_OI, delta = random_layer(300, 1000)
    target = getattr(torch, dtype)
    assert norm_error(merged_weight(W_OI, delta).to(target), delta) <= norm_threshold(dtype)
    dropped = merged_weight(W_OI, delta._replace(magnitude=None)).to(target)
    assert norm_error(dropped, delta) == pytest.approx(0.02, rel=0.1)  # the largest |1 / g - 1|
    assert norm_error(dropped, delta) > 4 * norm_threshold(dtype)


def test_no_rounding_moves_a_norm_beyond_the_threshold() -> None:
    """The worst case: every value of a row in the middle of two numbers."""
    weight = torch.full((1, 8), 1 + ROUNDOFF["bfloat16"] * 0.999)
    delta = LayerDelta(torch.ones(1, 8), torch.ones(1, 1), weight.norm(dim=1), 1.0, False)
    error = norm_error(weight.bfloat16(), delta)
    assert 0.98 * ROUNDOFF["bfloat16"] < error <= norm_threshold("bfloat16")


def test_norm_error_of_transposed_lora_and_zero_rows() -> None:
    W_OI, delta = random_layer(5, 8)
    W_OI[1], delta.B[1], delta.magnitude[1] = 0, 0, 0
    found = merged_weight(W_OI, delta)
    transposed = delta._replace(fan_in_fan_out=True)
    assert norm_error(found.T, transposed) == norm_error(found, delta) <= 4 * 2**-24
    assert norm_error(found, delta._replace(magnitude=None)) is None
    only_zeros = delta._replace(magnitude=torch.zeros(5))
    assert norm_error(found, only_zeros) == 0


@pytest.fixture
def merged(base: Path, adapter: Path, tmp_path: Path) -> Path:
    merge(base, adapter, tmp_path / "merged", "bfloat16")
    return tmp_path / "merged"


def test_every_layer_of_a_checkpoint(base: Path, adapter: Path, merged: Path) -> None:
    checks = compare_weights(plan_merge(base, adapter), merged, "bfloat16")
    assert checks.changed == []
    assert len(checks.layers) == 14
    assert max(layer.weight_error for layer in checks.layers) <= ARITHMETIC / 4
    assert max(layer.norm_error for layer in checks.layers) <= norm_threshold("bfloat16")


def test_an_unmerged_layer_and_a_changed_embedding_are_named(
    base: Path, adapter: Path, merged: Path
) -> None:
    tensors = load_file(base / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"].bfloat16()
    embedding[7, 3] *= 1.01
    edit_tensors(
        merged / "model.safetensors",
        **{f"{LAYER}.weight": tensors[f"{LAYER}.weight"].bfloat16()},
        model__embed_tokens__weight=embedding,
    )
    checks = compare_weights(plan_merge(base, adapter), merged, "bfloat16")
    assert checks.changed == ["model.embed_tokens.weight"]
    beyond = [layer.layer for layer in checks.layers if layer.weight_error > ARITHMETIC]
    assert beyond == [LAYER]


def test_a_fully_fine_tuned_model_is_compared_exactly(base: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "adapter"
    tiny_model(seed=3).save_pretrained(tuned)
    write_origin(base, tuned, "full")
    merge(base, tuned, tmp_path / "merged", "float16")
    plan = plan_merge(base, tuned)
    assert compare_weights(plan, tmp_path / "merged", "float16") == ([], [])
    merge(base, shutil.copytree(base, tmp_path / "base"), tmp_path / "merged", "float16")
    matrices = [name for name in plan.files if "norm" not in name]  # norms are 1 in both
    assert sorted(compare_weights(plan, tmp_path / "merged", "float16").changed) == sorted(matrices)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model.norm.weight": None}, "lacks the tensor model.norm.weight, and the model"),
        ({"extra": torch.ones(1)}, "has the tensor extra, which the model"),
        (
            {"model.norm.weight": torch.ones(32)},
            r"model.norm.weight as torch.float32 (32,); expected torch.bfloat16 (32,)",
        ),
        (
            {f"{LAYER}.weight": torch.full((32, 48), torch.nan).bfloat16()},
            f"{LAYER}.weight with values that are not finite",
        ),
    ],
)
def test_a_checkpoint_of_another_form_is_refused(
    base: Path, adapter: Path, merged: Path, changes: dict[str, torch.Tensor | None], match: str
) -> None:
    edit_tensors(merged / "model.safetensors", **changes)
    plan: Plan = plan_merge(base, adapter)
    with pytest.raises(StorageError, match=re.escape(match)):
        compare_weights(plan, merged, "bfloat16")

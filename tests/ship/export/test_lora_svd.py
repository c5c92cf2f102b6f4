from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, convert_to_lora, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from doratune.ship.export import lora_svd
from doratune.ship.export.lora_svd import leading_svd, write_lora
from doratune.ship.export.peft import change_config
from doratune.ship.merging.checkpoint import plan_merge, read_tensor
from doratune.ship.merging.weight import merged_weight
from tests.adapter.models import gpt2
from tests.ship.export.runs import sealed_adapter
from tests.ship.kinds import KINDS, merged_by_peft, save_kind

LAYER = "model.layers.0.mlp.up_proj"
PREFIX = "base_model.model."


def test_errors_are_those_of_the_written_factors(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Against numpy in float64: deltas, their singular values, and what is left of them."""
    plan = plan_merge(base, adapter)
    result = write_lora(plan, adapter, tmp_path / "lora.safetensors", rank=8)
    written = load_file(tmp_path / "lora.safetensors")
    left = dict.fromkeys((2, 4, 8, 16, 32), 0.0)
    total = weights = plain = 0.0
    errors = {}
    for name, delta in plan.deltas.items():
        W = read_tensor(plan.files, name).double().numpy()
        merged = merged_weight(read_tensor(plan.files, name), delta, torch.float64).numpy()
        change = merged - W
        values = np.linalg.svd(change, compute_uv=False)
        for rank in left:
            left[rank] += (values[rank:] ** 2).sum()
        total += (change**2).sum()
        weights += (merged**2).sum()
        BA = delta.B.double().numpy() @ delta.A.double().numpy()
        plain += ((delta.scaling * BA - change) ** 2).sum()
        key = f"{PREFIX}{plan.layers[name]}"
        A, B = (written[f"{key}.lora_{part}.weight"].double().numpy() for part in "AB")
        assert A.shape[0] == B.shape[1] == 8
        errors[plan.layers[name]] = np.linalg.norm(B @ A - change) / np.linalg.norm(change)
    assert [error.rank for error in result.ranks] == list(left)
    for error in result.ranks:
        assert error.delta_error == pytest.approx(np.sqrt(left[error.rank] / total), abs=1e-5)
        assert error.weight_error == pytest.approx(np.sqrt(left[error.rank] / weights), abs=1e-5)
    assert result.delta_error == result.ranks[2].delta_error > result.ranks[3].delta_error
    assert result.without_magnitude.delta_error == pytest.approx(np.sqrt(plain / total), rel=1e-5)
    assert {layer.layer: layer.delta_error for layer in result.layers} == pytest.approx(errors)


def test_pefts_own_conversion_drops_the_magnitude_and_this_one_does_not(tmp_path: Path) -> None:
    """PEFT's converter takes ``s B A`` for the whole change, at any rank, and says nothing."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 20, bias=False))
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=["0"]))
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(std=0.1)
        layer.lora_magnitude_vector["default"].weight.mul_(1 + 0.3 * (2 * torch.rand(20) - 1))
    W = layer.base_layer.weight.detach().clone()
    x = torch.eye(24)
    with torch.no_grad():
        change = model(x).T - W
    _, state = convert_to_lora(model, rank=20, progressbar=False)
    A, B = (
        next(tensor for name, tensor in state.items() if f"lora_{part}" in name).float()
        for part in "AB"
    )
    dropped = ((B @ A - change).norm() / change.norm()).item()
    U, s, V = leading_svd(change, 20)
    A, B = lora_svd.factors(U, s, V, 20)
    kept = ((B @ A - change).norm() / change.norm()).item()
    assert dropped > 0.2
    assert kept < 1e-5


def test_full_rank_is_the_model_and_narrow_layers_are_padded(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    plan = plan_merge(base, adapter)
    result = write_lora(plan, adapter, tmp_path / "lora.safetensors", rank=40)
    assert result.delta_error < 1e-5
    A = load_file(tmp_path / "lora.safetensors")[
        f"{PREFIX}model.layers.0.self_attn.k_proj.lora_A.weight"
    ]
    assert A.shape == (40, 32)
    assert not A[16:].any()


def test_the_file_says_that_it_is_an_approximation(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    write_lora(plan_merge(base, adapter), adapter, tmp_path / "lora.safetensors", rank=4)
    with safe_open(tmp_path / "lora.safetensors", framework="pt") as tensors:
        assert tensors.metadata()["approximation"] == "DoRA as LoRA of rank 4"


def test_saved_modules_go_along(base: Path, tmp_path: Path) -> None:
    adapter = sealed_adapter(
        base, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    write_lora(plan_merge(base, adapter), adapter, tmp_path / "lora.safetensors", rank=4)
    before = load_file(adapter / "adapter_model.safetensors")
    after = load_file(tmp_path / "lora.safetensors")
    key = f"{PREFIX}model.embed_tokens.weight"
    assert torch.equal(before[key], after[key])


def test_large_matrices_by_the_randomised_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leading singular values and the subspace are those of the whole decomposition."""
    torch.manual_seed(0)
    matrix = torch.randn(120, 6) @ torch.randn(6, 90) + 0.01 * torch.randn(120, 90)
    full = torch.linalg.svdvals(matrix.double())
    monkeypatch.setattr(lora_svd, "_FULL_SVD", 8)
    before = torch.random.get_rng_state()
    U, s, V = leading_svd(matrix, 6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert s.shape == (6,)
    torch.testing.assert_close(s.double(), full[:6], rtol=1e-4, atol=0)
    left = (matrix - U @ torch.diag(s) @ V.T).norm()
    assert left == pytest.approx(full[6:].norm().item(), rel=1e-3)
    again = leading_svd(matrix, 6)
    assert all(torch.equal(one, two) for one, two in zip((U, s, V), again, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_stock_peft_has_the_base_and_the_truncated_change(tmp_path: Path, name: str) -> None:
    """Against PEFT's merge of the DoRA adapter and numpy, in float64, for every kind of layer."""
    kind = KINDS[name]
    base, adapter = save_kind(kind, tmp_path)
    with torch.no_grad():
        W = kind.load(base).get_submodule(kind.layer).weight.double()
    change = merged_by_peft(kind, base, adapter) - W
    transposed = "Embedding" in name or name == "Conv1D"
    matrix = (change.T if transposed else change.flatten(1)).numpy()
    U, s, Vh = np.linalg.svd(matrix, full_matrices=False)
    truncated = torch.from_numpy(U[:, :3] * s[:3] @ Vh[:3])
    expected = W + (truncated.T if transposed else truncated.reshape(W.shape))
    folder = tmp_path / "lora"
    shutil.copytree(adapter, folder)
    result = write_lora(
        plan_merge(base, adapter), adapter, folder / "adapter_model.safetensors", rank=3
    )
    change_config(folder, use_dora=False, r=3, lora_alpha=3)
    torch.testing.assert_close(merged_by_peft(kind, base, folder), expected, rtol=0, atol=2e-6)
    errors = {layer.layer: layer.delta_error for layer in result.layers}
    expected_error = np.linalg.norm(s[3:]) / np.linalg.norm(s)
    assert errors[kind.layer] == pytest.approx(expected_error, rel=1e-4)


def test_saved_modules_of_a_checkpoint_without_the_models_prefix(tmp_path: Path) -> None:
    """GPT-2's own checkpoint calls ``transformer.wte.weight`` ``wte.weight``; PEFT knows the first."""
    base = tmp_path / "base"
    gpt2().save_pretrained(base)
    tensors = load_file(base / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    adapter = sealed_adapter(
        base, tmp_path / "adapter", target_modules=["c_fc"], modules_to_save=["wte"],
        fan_in_fan_out=True,
    )  # fmt: skip
    write_lora(plan_merge(base, adapter), adapter, tmp_path / "lora.safetensors", rank=4)
    before = load_file(adapter / "adapter_model.safetensors")
    after = load_file(tmp_path / "lora.safetensors")
    key = f"{PREFIX}transformer.wte.weight"
    assert torch.equal(before[key], after[key])
    assert not [name for name in after.keys() - before.keys() if "lora_" not in name]

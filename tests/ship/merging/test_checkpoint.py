from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from doratune.errors import AdapterError, ModelError
from doratune.ship.merging.checkpoint import plan_merge, stored_dtype
from tests.ship.adapters import edit_config, edit_tensors, save_adapter, write_origin
from tests.tiny import save_tiny

LAYER = "model.layers.0.self_attn.q_proj"
PREFIX = "base_model.model."


def rename(path: Path, old: str, new: str) -> None:
    tensors = load_file(path)
    save_file({name.replace(old, new): tensor for name, tensor in tensors.items()}, path)


def test_every_adapted_layer_finds_its_tensor(base: Path, adapter: Path) -> None:
    plan = plan_merge(base, adapter)
    assert plan.method == "dora"
    assert len(plan.deltas) == 14
    assert plan.layers[f"{LAYER}.weight"] == LAYER
    assert not plan.saved


def test_lora_is_called_lora(base: Path, tmp_path: Path) -> None:
    assert plan_merge(base, save_adapter(base, tmp_path, use_dora=False)).method == "lora"


def test_a_layer_the_base_lacks_is_named_with_the_nearest(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "a")
    rename(tmp_path / "a" / "adapter_model.safetensors", "layers.1.mlp.up_proj", "layers.1.mlp.upp")
    edit_config(tmp_path / "a" / "adapter_config.json", target_modules=".*proj|.*upp")
    write_origin(base, tmp_path / "a", "dora")
    with pytest.raises(
        AdapterError,
        match=r"adapts model\.layers\.1\.mlp\.upp\.weight, which .* nearest name there is "
        r"model\.layers\.1\.mlp\.up_proj\.weight",
    ):
        plan_merge(base, tmp_path / "a")


def test_two_layers_of_one_tensor_are_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    key = f"{PREFIX}{LAYER}"
    tensors = load_file(file)
    extra = {
        name.replace(key, f"{PREFIX}outer.{LAYER}"): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith(key)
    }
    save_file({**tensors, **extra}, file)
    with pytest.raises(AdapterError, match=f"base tensor {re.escape(LAYER)}.weight twice"):
        plan_merge(base, tmp_path / "a")


def test_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=5)
    with pytest.raises(AdapterError, match=r"was trained on .* with fingerprint [0-9a-f]{16}, but"):
        plan_merge(other, adapter)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_stored_dtype(tmp_path: Path, dtype: str) -> None:
    path = save_tiny(tmp_path, getattr(torch, dtype))
    edit_tensors(
        path / "model.safetensors", position_ids=torch.arange(9), scale=torch.ones(3)
    )  # neither decides
    assert stored_dtype(path) == dtype


def test_a_quantised_base_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(9, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="are stored as U8; merging needs F32, BF16 or F16"):
        stored_dtype(tmp_path)

"""Adapters of fused experts, against PEFT's own forward of the adapter beside its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from doratune.adapter import load_adapter
from doratune.adapter.describe import describe
from doratune.errors import AdapterError
from doratune.ship.merging.checkpoint import plan_merge
from doratune.ship.merging.merge import merge
from doratune.ship.merging.several import Weighted, merge_weighted
from doratune.ship.verification.compare_weights import ARITHMETIC, compare_weights
from tests.adapter.folders import edit_tensors
from tests.experts import load, logits, peft_model, save_adapter, save_base

BOTH = ["experts.gate_up_proj", "experts.down_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "an expert a tensor, other names": ("mixtral", {"targets": BOTH}),
    "an expert a tensor": ("qwen3", {"targets": BOTH}),
    "fused": ("llama4", {"targets": BOTH}),
    "fused and transposed": ("gpt-oss", {"targets": BOTH}),
    "one parameter, fused of two": ("mixtral", {"targets": ["experts.gate_up_proj"]}),
    "one parameter, transposed": ("gpt-oss", {"targets": ["experts.down_proj"]}),
    "beside modules": ("qwen3", {"targets": BOTH, "target_modules": ["q_proj", "o_proj"]}),
    "matrices": ("mixtral", {"targets": ["gate.weight", "q_proj.weight"]}),
    "three of a module": ("gpt-oss", {"targets": [*BOTH, "gate_up_proj_bias", "router.weight"]}),
    "ranks by name": (
        "mixtral",
        {"targets": BOTH, "rank_pattern": {"down_proj": 5}, "alpha_pattern": {".*up_proj": 7}},
    ),
    "modules that PEFT makes parameters": (
        "qwen3",
        {"targets": None, "target_modules": ["gate_proj", "up_proj", "down_proj", "v_proj"]},
    ),
    "rank-stabilised": ("llama4", {"targets": BOTH, "use_rslora": True}),
}


def distance(merged: torch.Tensor, expected: torch.Tensor) -> float:
    return float((merged - expected).norm())


@pytest.mark.parametrize("case", CASES)
def test_merged_is_the_adapted_model(tmp_path: Path, case: str) -> None:
    kind, config = CASES[case]
    base = save_base(kind, tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", **config)
    expected = logits(peft_model(base, adapter))
    theirs = distance(logits(peft_model(base, adapter).merge_and_unload()), expected)
    merged = merge(base, adapter, tmp_path / "merged", "float32")
    assert distance(logits(load(tmp_path / "merged")), expected) <= 4 * theirs
    assert distance(logits(load(base)), expected) > 1e4 * theirs
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = [name for name in before if not before[name].equal(after[name])]
    assert len(changed) == merged.num_merged_tensors
    checks = compare_weights(plan_merge(base, adapter), tmp_path / "merged", "float32")
    assert checks.changed == []
    assert len(checks.layers) == len(changed)
    assert all(layer.weight_error <= ARITHMETIC for layer in checks.layers)


def test_a_checkpoint_saved_as_the_model_holds_it(tmp_path: Path) -> None:
    base = save_base("qwen3", tmp_path / "base", save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(base / "model.safetensors")
    adapter = save_adapter(base, tmp_path / "adapter", BOTH)
    expected = logits(peft_model(base, adapter))
    theirs = distance(logits(peft_model(base, adapter).merge_and_unload()), expected)
    assert merge(base, adapter, tmp_path / "merged", "float32").num_merged_tensors == 4
    assert distance(logits(load(tmp_path / "merged")), expected) <= 4 * theirs


def test_more_than_ten_experts_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    base = save_base("qwen3", tmp_path / "base", num_experts=12)
    adapter = save_adapter(base, tmp_path / "adapter", BOTH)
    expected = logits(peft_model(base, adapter))
    theirs = distance(logits(peft_model(base, adapter).merge_and_unload()), expected)
    merge(base, adapter, tmp_path / "merged", "float32")
    assert distance(logits(load(tmp_path / "merged")), expected) <= 4 * theirs


def test_several_at_once(tmp_path: Path) -> None:
    base = save_base("mixtral", tmp_path / "base")
    first = save_adapter(base, tmp_path / "first", BOTH, seed=1)
    second = save_adapter(base, tmp_path / "second", BOTH[:1], seed=2)
    weights = {}
    for adapter in (first, second):
        merge(base, adapter, tmp_path / "one", "float32")
        weights[adapter] = load_file(tmp_path / "one" / "model.safetensors")
    merge_weighted(
        base, [Weighted(first, 0.25), Weighted(second, 0.5)], tmp_path / "both", "float32"
    )
    merged = load_file(tmp_path / "both" / "model.safetensors")
    for name, W in load_file(base / "model.safetensors").items():
        expected = W + 0.25 * (weights[first][name] - W) + 0.5 * (weights[second][name] - W)
        torch.testing.assert_close(merged[name], expected)


def test_an_expert_is_missing(tmp_path: Path) -> None:
    base = save_base("mixtral", tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", BOTH)
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        AdapterError, match=r"layers\.1\.mlp\.experts\.gate_up_proj of 3 experts.*of 5 tensors"
    ):
        merge(base, adapter, tmp_path / "merged", "float32")
    assert not (tmp_path / "merged").exists()


def test_the_parameter_is_stored_in_another_way(tmp_path: Path) -> None:
    """As in gpt-oss's own checkpoint: 4 bits in blocks, and their scales."""
    base = save_base("gpt-oss", tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", BOTH)
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.0.mlp.experts.down_proj"
    tensors[f"{name}_blocks"] = tensors.pop(name)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        AdapterError, match=rf"parameter {name}, .* of no tensor .* {name}_blocks\."
    ):
        merge(base, adapter, tmp_path / "merged", "float32")


def test_twice_in_the_checkpoint(tmp_path: Path) -> None:
    base = save_base("qwen3", tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", BOTH)
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.experts.down_proj"] = torch.zeros(4, 16, 12)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(AdapterError, match=r"makes of 5 tensors .* by MergeModulelist\(dim=0\)"):
        merge(base, adapter, tmp_path / "merged", "float32")


def experts_as_layers(base: Path, **config: Any) -> PeftModel:
    """An adapter of every expert's own layers, as it was trained under transformers 4."""
    root = nn.Module()
    for name, W in load_file(base / "model.safetensors").items():
        *path, last = name.removesuffix(".weight").split(".")
        parent = root
        for part in path:
            if not hasattr(parent, part):
                parent.register_module(part, nn.Module())
            parent = getattr(parent, part)
        if W.ndim == 2:
            parent.register_module(last, nn.Linear(W.shape[1], W.shape[0], bias=False))
            getattr(parent, last).weight.data = W.clone()
    settings: dict[str, Any] = {"r": 2, "target_modules": ["w1", "w2", "w3", "gate", "v_proj"]}
    model = get_peft_model(root, LoraConfig(**settings, **config))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
        elif "magnitude" in name:
            parameter.data *= 1 + 0.1 * torch.rand_like(parameter)
    return model


@pytest.mark.parametrize("use_dora", [True, False])
def test_experts_that_were_layers_when_trained(tmp_path: Path, use_dora: bool) -> None:
    base, adapter = save_base("mixtral", tmp_path / "base"), tmp_path / "adapter"
    theirs = experts_as_layers(base, use_dora=use_dora)
    theirs.save_pretrained(str(adapter))
    assert describe(adapter, base).problems == []
    assert merge(base, adapter, tmp_path / "merged", "float32").num_merged_tensors == 2 * (9 + 2)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, expected in theirs.double().merge_and_unload().state_dict().items():
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-5, atol=1e-6)
    if use_dora:
        with pytest.raises(ValueError, match="does not work with use_dora"):
            peft_model(base, adapter)
    else:  # PEFT converts it when it is loaded
        converted = logits(peft_model(base, adapter))
        torch.testing.assert_close(logits(load(tmp_path / "merged")), converted, rtol=0, atol=1e-5)
    with pytest.raises(AdapterError, match=r"does not have it.*then `doratune adapter merge`"):
        load_adapter(load(base), adapter)
    edit_tensors(
        adapter,
        lambda t: [t.pop(key) for key in list(t) if "0.block_sparse_moe.experts.2.w3" in key],
    )
    with pytest.raises(AdapterError, match=r"experts\.2\.w3: .* holds nothing for it"):
        merge(base, adapter, tmp_path / "again", "float32")
    wide = save_base("mixtral", tmp_path / "wide", intermediate_size=32)
    with pytest.raises(
        AdapterError, match=r"w1: .* shape \(24, 16\), but this model's has \(32, 16\)"
    ):
        merge(wide, adapter, tmp_path / "again", "float32")

"""Layers that are not linear, and weights that the base ties, through reading, loading and merging."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from doratune.adapter import read_adapter
from doratune.adapter.conv import why_not_conv
from doratune.adapter.describe import describe
from doratune.adapter.tuned import load_tuned
from doratune.base import load_base
from doratune.errors import AdapterError
from doratune.ship.merging.checkpoint import plan_merge
from doratune.ship.merging.merge import merge
from doratune.ship.verification.compare_weights import ARITHMETIC, compare_weights, norm_threshold
from tests.ship.adapters import edit_config, edit_tensors, peft_model, write_origin
from tests.tiny import save_tiny

IDS = torch.tensor([[3, 40, 5, 260, 7]])
KINDS: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "both": {"target_modules": ["lm_head", "embed_tokens"]},
    "saved embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "plain LoRA": {"target_modules": ["embed_tokens"], "use_dora": False},
}


def moved(model: PreTrainedModel, path: Path, **config: object) -> Path:
    """Saves an adapter in which every trained tensor is far from where it starts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT on tied weights
        adapted = peft_model(model, **config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "magnitude" in name:
                parameter *= 1 + 0.03 * (2 * torch.rand_like(parameter) - 1)
            elif "lora_" in name or "modules_to_save" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(str(path))
    return path


@torch.no_grad()
def peft_logits(base: Path, adapter: Path) -> Tensor:
    """What PEFT's own forward gives in float64: the independent truth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load_base(base, "float32"), str(adapter))
    return model.double().eval()(IDS).logits


@torch.no_grad()
def merged_logits(merged: Path) -> Tensor:
    return AutoModelForCausalLM.from_pretrained(merged).double().eval()(IDS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_and_heads(tmp_path: Path, kind: str, tied: bool) -> None:
    base = save_tiny(tmp_path / "base", tie_word_embeddings=tied)
    adapter = moved(load_base(base, "float32"), tmp_path / "adapter", **KINDS[kind])
    assert describe(adapter, base).problems == []
    expected = peft_logits(base, adapter)
    loaded = load_tuned(base, adapter)(IDS).logits
    torch.testing.assert_close(loaded.double(), expected, rtol=0, atol=2e-5)
    merge(base, adapter, tmp_path / "merged", "float32")
    torch.testing.assert_close(merged_logits(tmp_path / "merged"), expected, rtol=0, atol=2e-5)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    checks = compare_weights(plan_merge(base, adapter), tmp_path / "merged", "float32")
    assert checks.changed == []
    assert all(layer.weight_error <= ARITHMETIC / 4 for layer in checks.layers)
    assert all((layer.norm_error or 0) <= norm_threshold("float32") for layer in checks.layers)


def test_pefts_merge_of_a_tied_head_is_another_model(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    adapter = moved(load_base(base, "float32"), tmp_path / "adapter", **KINDS["head"])
    theirs = PeftModel.from_pretrained(load_base(base, "float32"), str(adapter)).double().eval()
    with torch.no_grad():
        wrong = theirs.merge_and_unload()(IDS).logits
    merge(base, adapter, tmp_path / "merged", "float32")
    expected = peft_logits(base, adapter)
    effect = (expected - load_base(base, "float32").double()(IDS).logits).norm()
    assert (wrong - expected).norm() > 0.3 * effect
    assert (merged_logits(tmp_path / "merged") - expected).norm() < 1e-4 * effect


def test_a_magnitude_left_out_of_an_embedding_is_seen(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    adapter = moved(load_base(base, "float32"), tmp_path / "adapter", **KINDS["embedding"])
    merge(base, adapter, tmp_path / "merged", "bfloat16")
    plan = plan_merge(base, adapter)
    name = "model.embed_tokens.weight"
    without = plan.deltas[name]._replace(magnitude=None)
    broken = plan.weight(name).double() + without.scaling * (without.B @ without.A).T
    edit_tensors(tmp_path / "merged" / "model.safetensors", **{name: broken.bfloat16()})
    checks = compare_weights(plan, tmp_path / "merged", "bfloat16")
    wrong = [layer.layer for layer in checks.layers if layer.weight_error > ARITHMETIC]
    assert wrong == ["model.embed_tokens"]


def test_embedding_weights_of_another_base_are_refused(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    adapter = moved(load_base(base, "float32"), tmp_path / "adapter", **KINDS["embedding"])
    file = adapter / "adapter_model.safetensors"
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    edit_tensors(file, **{key: 1.001 * load_file(file)[key]})
    match = "holds the base weight it was trained with, and it is another than this base's"
    with pytest.raises(AdapterError, match=match):
        plan_merge(base, adapter)
    with pytest.raises(AdapterError, match=match):
        load_tuned(base, adapter)


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("use_dora", [True, False])
def test_convolutions(vision: Path, tmp_path: Path, use_dora: bool) -> None:
    model = ViTForImageClassification.from_pretrained(vision)
    config = {"target_modules": ["projection"], "use_dora": use_dora}
    adapter = moved(model, tmp_path / "adapter", **config)
    write_origin(vision, adapter, "dora" if use_dora else "lora")
    layer = "vit.embeddings.patch_embeddings.projection"
    delta = read_adapter(adapter).layers[layer]
    assert delta.weight_shape == (16, 3, 4, 4)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    theirs = PeftModel.from_pretrained(ViTForImageClassification.from_pretrained(vision), adapter)
    with torch.no_grad():
        expected = theirs.double().eval()(images).logits
        merge(vision, adapter, tmp_path / "merged", "float32")
        merged = ViTForImageClassification.from_pretrained(tmp_path / "merged").double()
        torch.testing.assert_close(merged(images).logits, expected, rtol=0, atol=1e-6)
        before = ViTForImageClassification.from_pretrained(vision).double()(images).logits
    assert (expected - before).norm() > 1e3 * 1e-6
    checks = compare_weights(plan_merge(vision, adapter), tmp_path / "merged", "float32")
    assert [found.layer for found in checks.layers] == [layer]
    assert checks.layers[0].weight_error <= ARITHMETIC / 4


def test_a_convolution_of_another_kernel_is_refused(vision: Path, tmp_path: Path) -> None:
    model = ViTForImageClassification.from_pretrained(vision)
    adapter = moved(model, tmp_path / "adapter", target_modules=["projection"])
    key = "base_model.model.vit.embeddings.patch_embeddings.projection.lora_A.weight"
    edit_tensors(adapter / "adapter_model.safetensors", **{key: torch.randn(4, 3, 2, 8)})
    write_origin(vision, adapter, "dora")
    match = r"fits a weight of shape \(16, 3, 2, 8\), but the base's has \(16, 3, 4, 4\)"
    with pytest.raises(AdapterError, match=match):
        merge(vision, adapter, tmp_path / "merged", "float32")


def test_a_convolution_without_a_class_is_refused(vision: Path, tmp_path: Path) -> None:
    model = ViTForImageClassification.from_pretrained(vision)
    adapter = moved(model, tmp_path / "adapter", target_modules=["projection"])
    other = shutil.copytree(vision, tmp_path / "other")
    edit_config(other / "config.json", architectures=["NobodysModel"])
    write_origin(other, adapter, "dora")
    with pytest.raises(AdapterError, match="nothing tells its dilation and groups"):
        plan_merge(other, adapter)


def test_dilated_convolutions_have_no_merged_form() -> None:
    assert why_not_conv(nn.Conv2d(4, 4, 3, dilation=2))
    assert why_not_conv(nn.Conv2d(4, 4, 3, groups=2))
    assert not why_not_conv(nn.Conv2d(4, 4, 3, stride=2, padding=1))

"""Adapters on fused experts: read with their base, put on it, described, and refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from doratune.adapter import load_adapter, read_adapter
from doratune.adapter.describe import describe
from doratune.errors import AdapterError
from tests.adapter.folders import edit_config, edit_tensors
from tests.experts import IDS, load, peft_model, save_adapter, save_base
from tests.tiny import tiny_model

EXPERTS = "model.layers.1.mlp.experts"
KEY = f"base_model.model.{EXPERTS}"
TARGETS = ["experts.gate_up_proj", "experts.down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base("mixtral", tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save_adapter(base, tmp_path / "adapter", TARGETS, target_modules=["q_proj"])


@torch.no_grad()
def test_read_with_its_base(adapter: Path, base: Path) -> None:
    layers = read_adapter(adapter, base).layers
    assert len(layers) == 6
    theirs = dict(peft_model(base, adapter).named_modules())
    for name, shape in {"gate_up_proj": (3, 48, 16), "down_proj": (3, 16, 24)}.items():
        delta = layers[f"{EXPERTS}.{name}"]
        assert (delta.weight_shape, delta.num_experts, delta.is_parameter) == (shape, 3, True)
        wrapper = theirs[KEY if name == "down_proj" else f"{KEY}.base_layer"]
        assert wrapper.parameter_name == name
        assert torch.equal(wrapper.lora_B["default"].weight, delta.B)
    assert read_adapter(adapter, load(base)).layers.keys() == layers.keys()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mixtral", "gpt-oss"])
def test_loaded_is_what_peft_loads(tmp_path: Path, kind: str) -> None:
    base = save_base(kind, tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", TARGETS, target_modules=["q_proj"])
    loaded = load_adapter(load(base), adapter)(IDS).logits
    assert torch.equal(loaded, peft_model(base, adapter)(IDS).logits)
    assert not torch.equal(loaded, load(base)(IDS).logits)


@torch.no_grad()
def test_the_base_is_as_it_was_after_an_error(adapter: Path, base: Path) -> None:
    edit_config(adapter, modules_to_save=["norm"])  # missed when all wrappers are in place
    model = load(base)
    with pytest.raises(AdapterError, match="cannot be put onto this MixtralForCausalLM by PEFT"):
        load_adapter(model, adapter)
    fresh = load(base)
    assert model.state_dict().keys() == fresh.state_dict().keys()
    assert torch.equal(model(IDS).logits, fresh(IDS).logits)


def test_not_without_its_base(adapter: Path) -> None:
    expected = "known only together with their base model.*adapter merge"
    with pytest.raises(AdapterError, match=expected):
        read_adapter(adapter)


def test_described(adapter: Path, base: Path) -> None:
    alone, beside = describe(adapter), describe(adapter, base)
    assert alone.problems == beside.problems == []
    assert (alone.method, beside.belongs) == ("lora", "no evidence")
    layers = {layer.layer: (layer.r, layer.num_experts, layer.scaling) for layer in beside.layers}
    assert layers[f"{EXPERTS}.gate_up_proj"] == (2, 3, 1.5)
    assert layers["model.layers.1.self_attn.q_proj"] == (2, 1, 1.5)
    layers = {layer.layer: (layer.r, layer.num_experts, layer.scaling) for layer in alone.layers}
    assert layers[f"{EXPERTS}.base_layer"] == (6, 1, 1.5)
    assert any("only --base shows" in note for note in alone.notes)
    assert not any("only --base shows" in note for note in beside.notes)


def test_ranks_by_name_are_known_with_the_base(tmp_path: Path, base: Path) -> None:
    patterns: dict[str, Any] = {"rank_pattern": {"down_proj": 5}, "alpha_pattern": {"down_proj": 1}}
    adapter = save_adapter(base, tmp_path / "adapter", TARGETS, **patterns)
    assert {layer.scaling for layer in describe(adapter).layers} == {None}
    found = {n.layer: (n.r, n.scaling) for n in describe(adapter, base).layers}
    assert found[f"{EXPERTS}.down_proj"] == (5, 0.2)
    assert found[f"{EXPERTS}.gate_up_proj"] == (2, 1.5)


@pytest.mark.parametrize("part", ["", ".base_layer"])
def test_one_of_two_is_missing(adapter: Path, base: Path, part: str) -> None:
    edit_tensors(adapter, lambda t: [t.pop(f"{KEY}{part}.lora_{x}.weight") for x in "AB"])
    name = f"{EXPERTS}.{'gate_up_proj' if part else 'down_proj'}"
    expected = f"parameter {name}: adapter_config.json adapts it, but the file holds no {KEY}{part}"
    with pytest.raises(AdapterError, match=re.escape(expected)):
        read_adapter(adapter, base)
    assert describe(adapter, base).problems[0].startswith(f"parameter {name}: ")


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"r": 3, "rank_pattern": {"q_proj": 2}}, "lora_A has 6 rows; expected 9, the rank"),
    "no target": ({"target_parameters": ["experts.down_proj"]}, "experts.base_layer: it adapts a"),
    "another module": ({"target_parameters": ["gate.weight"]}, "experts: lora_A has rank 6, but"),
    "no text": ({"target_parameters": [1]}, "says target_parameters [1]; expected names"),
    "one text": ({"target_parameters": "experts"}, "expected names of parameters"),
    "DoRA": ({"use_dora": True}, "sets target_parameters and use_dora; expected plain LoRA there"),
    "transposed": ({"fan_in_fan_out": True}, "sets target_parameters and fan_in_fan_out"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_config_and_weights_contradict_each_other(adapter: Path, base: Path, case: str) -> None:
    values, expected = CONFIGS[case]
    edit_config(adapter, **values)
    with pytest.raises(AdapterError, match=re.escape(expected)):
        read_adapter(adapter, base)
    assert describe(adapter, base).problems


def test_another_base(adapter: Path, tmp_path: Path) -> None:
    more = save_base("mixtral", tmp_path / "more", num_local_experts=2)
    with pytest.raises(AdapterError, match="lora_A has 6 rows; expected 4"):
        read_adapter(adapter, more)
    wide = save_base("mixtral", tmp_path / "wide", hidden_size=32)
    expected = r"fits a weight of shape \(3, 48, 16\), but this model's has \(3, 48, 32\)"
    with pytest.raises(AdapterError, match=expected):
        read_adapter(adapter, wide)
    with pytest.raises(AdapterError, match="the base has none of these in such a place"):
        load_adapter(tiny_model(), adapter, any_base=True)

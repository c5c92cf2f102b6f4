from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from doratune.base import fingerprint, load_base
from doratune.errors import AdapterError, ConfigError
from doratune.record.adapters import CombinedFile
from doratune.ship.merging.merge import merge
from doratune.ship.merging.several import (
    Weighted,
    merge_in_turn,
    merge_weighted,
    merged_dtype,
    parse_weighted,
)
from tests.ship.adapters import (
    edit_config,
    edit_tensors,
    peft_merged,
    peft_model,
    randomise,
    save_adapter,
    write_origin,
)
from tests.tiny import save_tiny, tiny_model

# 16 roundings of float32, as in test_merge.
RELATIVE = 16 * 2**-24


def another(base: Path, path: Path, seed: int, **config: object) -> Path:
    """An adapter of the same base that has nothing to do with that of the fixture."""
    model = peft_model(load_base(base, "float32"), **config)
    randomise(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(str(path))
    write_origin(base, path, "dora")
    return path


@pytest.fixture
def second(base: Path, tmp_path: Path) -> Path:
    return another(base, tmp_path / "second", 5, r=3, target_modules=["q_proj", "up_proj"])


def literal(base: Path, parents: list[tuple[Path, float]]) -> dict[str, Tensor]:
    """``W + sum_i w_i (W'_i - W)`` in float64, every W'_i merged by PEFT alone, where it is right."""
    W = {name: tensor.double() for name, tensor in load_file(base / "model.safetensors").items()}
    merged = [(peft_merged(base, path), weight) for path, weight in parents]
    return {
        name: tensor + sum(weight * (each[name] - tensor) for each, weight in merged)
        for name, tensor in W.items()
    }


def test_weighted_adapters_each_against_the_base(
    base: Path, adapter: Path, second: Path, tmp_path: Path
) -> None:
    parents = [Weighted(adapter, 0.6), Weighted(second, -0.5)]
    counts = merge_weighted(base, parents, tmp_path / "merged", "float32")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    expected = literal(base, [(adapter, 0.6), (second, -0.5)])
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].double() - tensor).abs().max() <= RELATIVE * tensor.abs().max(), name
    assert (counts.method, counts.num_merged_tensors) == ("dora", 14)
    record = CombinedFile.read(tmp_path / "merged" / "merge.json")
    assert record.how == "weighted"
    assert record.base_fingerprint == fingerprint(base)
    assert [(parent.name, parent.weight) for parent in record.parents] == [
        ("adapter", 0.6), ("second", -0.5)
    ]  # fmt: skip
    assert record.parents[0].files.keys() == {"adapter_config.json", "adapter_model.safetensors"}


def test_pefts_weighted_adapter_is_another_model(
    base: Path, adapter: Path, second: Path, tmp_path: Path
) -> None:
    """PEFT 0.21.2 adds A and B up and starts the magnitudes again from the base's norms."""
    second = another(base, tmp_path / "third", 6)  # of the same rank, as PEFT demands
    model = PeftModel.from_pretrained(load_base(base, "float32"), str(adapter), "one")
    model.load_adapter(str(second), "two")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_weighted_adapter(["one", "two"], [0.6, 0.4], "both", combination_type="linear")
    model.set_adapter("both")
    theirs = model.double().merge_and_unload().state_dict()
    parents = [Weighted(adapter, 0.6), Weighted(second, 0.4)]
    merge_weighted(base, parents, tmp_path / "merged", "float32")
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    expected = literal(base, [(adapter, 0.6), (second, 0.4)])
    names = [name for name in expected if "_proj" in name]

    def error(found: dict[str, Tensor]) -> float:
        squares = [
            ((found[name].double() - expected[name]).square().sum(), expected[name].square().sum())
            for name in names
        ]
        return math.sqrt(sum(part for part, _ in squares) / sum(whole for _, whole in squares))

    assert error(theirs) > 0.026
    assert error(ours) < 1e-6


def test_one_adapter_of_weight_one_is_the_plain_merge(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    merge(base, adapter, tmp_path / "plain", "bfloat16")
    merge_weighted(base, [Weighted(adapter)], tmp_path / "merged", "bfloat16")
    file = "model.safetensors"
    assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "merged" / file).read_bytes()


def test_a_saved_module_of_one_adapter_is_weighed_too(base: Path, tmp_path: Path) -> None:
    config = {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}
    saving = another(base, tmp_path / "saving", 7, **config)
    file = saving / "adapter_model.safetensors"
    key = "base_model__model__model__norm__weight"
    edit_tensors(file, **{key: torch.full((32,), 3.0)})
    merge_weighted(base, [Weighted(saving, 0.25)], tmp_path / "merged", "float32")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert found["model.norm.weight"].tolist() == [1.5] * 32  # the base's is 1


def test_in_turn_each_on_what_those_before_it_make(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    merge(base, adapter, tmp_path / "step", "bfloat16")
    second = another(tmp_path / "step", tmp_path / "second", 5)
    merge_in_turn(base, [adapter, second], tmp_path / "merged", "bfloat16")
    merge(tmp_path / "step", second, tmp_path / "expected", "bfloat16")
    file = "model.safetensors"
    assert (tmp_path / "merged" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()
    record = CombinedFile.read(tmp_path / "merged" / "merge.json")
    assert (record.how, [parent.name for parent in record.parents]) == (
        "in turn", ["adapter", "second"]
    )  # fmt: skip
    assert record.base_fingerprint == fingerprint(base)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["expected", "merged", "second", "step"]
    with pytest.raises(AdapterError, match="works on its own base only"):
        merge_in_turn(base, [second, adapter], tmp_path / "wrong", "bfloat16")
    with pytest.raises(AdapterError, match="works on its own base only"):
        merge_in_turn(base, [adapter, second], tmp_path / "wrong", "float32")  # another step
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def assert_refused(
    base: Path, parents: list[Weighted], target: Path, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        merge_weighted(base, parents, target, "float32")
    assert not target.exists()


@pytest.mark.parametrize("weight", [math.nan, math.inf, 0.0])
def test_weights_without_meaning_are_refused(
    base: Path, adapter: Path, tmp_path: Path, weight: float
) -> None:
    match = f"weight of .*adapter is {weight:g}; expected a finite number other than 0"
    assert_refused(base, [Weighted(adapter, weight)], tmp_path / "m", ConfigError, match)


def test_parents_that_do_not_go_together_are_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    target = tmp_path / "merged"
    assert_refused(base, [], target, ConfigError, "No adapter is given")
    tiny_model(seed=3).save_pretrained(tmp_path / "full")
    write_origin(base, tmp_path / "full", "full")
    parents = [Weighted(adapter), Weighted(tmp_path / "full")]
    assert_refused(base, parents, target, AdapterError, "it is no adapter. A fully fine-tuned")
    other = save_tiny(tmp_path / "other", seed=5)
    foreign = save_adapter(other, tmp_path / "foreign")
    match = "foreign was trained on .* works on its own base only"
    assert_refused(base, [Weighted(adapter), Weighted(foreign)], target, AdapterError, match)
    quantised = shutil.copytree(adapter, tmp_path / "quantised")
    edit_config(quantised / "doratune.json", quantize="nf4")
    parents = [Weighted(adapter), Weighted(quantised)]
    assert_refused(base, parents, target, AdapterError, r"over a quantised base \(nf4\)")
    saving = {"target_modules": ["q_proj"], "modules_to_save": ["up_proj"]}
    whole = another(base, tmp_path / "whole", 7, **saving)
    match = re.escape("whole holds model.layers.0.mlp.up_proj.weight whole, and ")
    assert_refused(base, [Weighted(adapter), Weighted(whole)], target, AdapterError, match)
    twice = shutil.copytree(whole, tmp_path / "again")
    assert_refused(base, [Weighted(whole), Weighted(twice)], target, AdapterError, match)


def test_the_record_does_not_travel_into_another_model(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    merge_weighted(base, [Weighted(adapter)], tmp_path / "merged", "float32")
    second = another(tmp_path / "merged", tmp_path / "second", 5)
    merge(tmp_path / "merged", second, tmp_path / "more", "float32")
    assert not (tmp_path / "more" / "merge.json").exists()


def test_adapters_of_the_command_line(tmp_path: Path) -> None:
    assert parse_weighted("some/folder") == Weighted(Path("some/folder"), 1)
    assert parse_weighted("a=b=-0.25") == Weighted(Path("a=b"), -0.25)
    odd = tmp_path / "lr=0.5"
    odd.mkdir()
    assert parse_weighted(str(odd)) == Weighted(odd)
    with pytest.raises(
        ConfigError, match="'folder=half' gives 'half' as weight; expected a number"
    ):
        parse_weighted("folder=half")
    with pytest.raises(ConfigError, match="'folder=2' gives a weight, and adapters merged in turn"):
        parse_weighted("folder=2", in_turn=True)


def test_precision_of_the_command_line(base: Path) -> None:
    assert merged_dtype(base, "auto") == "float32"
    assert merged_dtype(base, "float16") == "float16"
    with pytest.raises(ConfigError, match="--dtype is 'int8'; expected auto, float32"):
        merged_dtype(base, "int8")


def test_the_config_is_that_of_an_untied_model(base: Path, tmp_path: Path) -> None:
    one = another(base, tmp_path / "one", 5, target_modules=["lm_head"])
    two = another(base, tmp_path / "two", 6, target_modules=["q_proj"])
    merge_weighted(base, [Weighted(one), Weighted(two)], tmp_path / "merged", "float32")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    found = load_file(tmp_path / "merged" / "model.safetensors")
    expected = peft_logit_weight(base, one)
    assert (found["lm_head.weight"] - expected).abs().max() <= RELATIVE * expected.abs().max()


def peft_logit_weight(base: Path, adapter: Path) -> Tensor:
    """W' of the head by its definition: PEFT's own merge changes the tied embedding with it."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    W = load_file(base / "model.safetensors")["model.embed_tokens.weight"].double()
    A, B, m = (
        tensors[f"base_model.model.lm_head.{part}"].double()
        for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    )
    V = W + 12 / 4 * B @ A
    return m[:, None] * V / V.norm(dim=1, keepdim=True)

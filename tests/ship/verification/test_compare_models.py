"""The library call on models as users of PEFT have them, with faults planted in one layer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from doratune import (
    ModelComparison,
    assert_same_model,
    compare_models,
    disable_fast_dora,
    enable_fast_dora,
)
from doratune.errors import ModelError
from doratune.ship.merging.merge import merge
from tests.ship.adapters import peft_model, randomise
from tests.tiny import tiny_model

INPUTS = [[5, 60, 7, 200, 9, 10, 300], [1], [*range(3, 90)]]
LAYER = "model.layers.1.self_attn.v_proj"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def sidecar(spread: float = 0.02, seed: int = 0) -> PeftModel:
    """With biases, and magnitudes about as far from the norms as training takes them."""
    base = tiny_model(seed, attention_bias=True)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return randomise(peft_model(base), spread).eval()


def adapted(model: PeftModel) -> LoraLayer:
    layer = model.get_base_model().get_submodule(LAYER)
    assert isinstance(layer, LoraLayer)
    return layer


def norms(model: PeftModel) -> torch.Tensor:
    layer = adapted(model)
    return (layer.base_layer.weight + layer.get_delta_weight("default")).norm(dim=1)


def drop_magnitude(model: PeftModel) -> None:
    adapted(model).lora_magnitude_vector["default"].weight.data = norms(model)


def double_alpha(model: PeftModel) -> None:
    adapted(model).scaling["default"] *= 2


def swap_base(model: PeftModel) -> None:
    adapted(model).base_layer.weight.data = adapted(sidecar(seed=9)).base_layer.weight.data


def lose_bias(model: PeftModel) -> None:
    adapted(model).base_layer.bias.data.zero_()


def round_g(model: PeftModel) -> None:
    m = adapted(model).lora_magnitude_vector["default"].weight
    m.data = (m.data / norms(model)).bfloat16().float() * norms(model)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fault", [drop_magnitude, double_alpha, swap_base, lose_bias, round_g])
@torch.no_grad()
def test_a_fault_in_one_layer_is_named(
    fault: Callable[[PeftModel], None], dtype: torch.dtype
) -> None:
    model = sidecar()
    assert_same_model(model, copy.deepcopy(model).merge_and_unload().to(dtype).float(), INPUTS,
                      dtype=dtype)  # fmt: skip
    wrong = copy.deepcopy(model)
    fault(wrong)
    wrong = wrong.merge_and_unload().to(dtype).float()
    if fault is round_g and dtype is torch.bfloat16:
        # Rounding g to bf16 is as large as rounding the weights to bf16.
        assert compare_models(model, wrong, INPUTS, dtype=dtype).passed
        return
    result = compare_models(model, wrong, INPUTS, dtype=dtype)
    assert [x.layer for x in result.layers if x.departs] == [LAYER]
    assert result.failures[0].startswith(
        f"Layer {LAYER} departs: on the same inputs its output is "
    )
    assert "layers depart" not in result.failures[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_computing_in_a_lower_precision_passes(dtype: torch.dtype) -> None:
    """As users have it: the whole model in that precision, adapters in float32, and its merge."""
    model = sidecar()
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    result = compare_models(model, copy.deepcopy(model).merge_and_unload(), INPUTS)
    assert result.passed, str(result)
    assert result.limits["top1_agreement"] == 0.99 - 10 * torch.finfo(dtype).eps / 2


def test_fast_layers_are_those_of_peft() -> None:
    model = sidecar()
    fast = copy.deepcopy(model)
    enable_fast_dora(fast)
    assert_same_model(model, fast, INPUTS)
    assert_same_model(fast, copy.deepcopy(fast).merge_and_unload(), torch.tensor(INPUTS[:1]))
    disable_fast_dora(fast)
    assert_same_model(model, fast, INPUTS)


def test_the_message_is_a_table_that_names_the_layer() -> None:
    model, wrong = sidecar(), sidecar()
    drop_magnitude(wrong)
    with pytest.raises(AssertionError) as caught:
        assert_same_model(model, wrong, INPUTS)
    lines = str(caught.value).splitlines()
    assert lines[0] == "These are two different models."
    assert lines[1].startswith(f"Layer {LAYER} departs")
    assert any(line.startswith("mean KL ") for line in lines)
    at = next(i for i, line in enumerate(lines) if line.startswith("layer  "))
    assert lines[at + 1].startswith(LAYER)
    assert lines[at + 1].endswith("  departs")
    assert "departs" not in lines[at + 2]
    assert lines[-1] == "... and 14 layers nearer"


def test_dropout_is_off_and_modes_are_as_before() -> None:
    model = randomise(peft_model(tiny_model(), lora_dropout=0.5)).train()
    assert_same_model(model, copy.deepcopy(model).merge_and_unload(), INPUTS)
    assert model.training
    assert adapted(model).lora_dropout["default"].training


@pytest.mark.parametrize("which", ["reference", "other"])
def test_a_compiled_model_is_compared_with_its_source_and_its_merge(which: str) -> None:
    model = sidecar()
    compiled = torch.compile(model, backend="eager")
    merged = copy.deepcopy(model).merge_and_unload()
    pair = (compiled, merged) if which == "reference" else (merged, compiled)
    result = compare_models(*pair, INPUTS)
    assert result.passed, str(result)
    assert len(result.layers) == 22
    alone = compare_models(model, compiled, INPUTS)
    assert alone.passed
    assert alone.layers == []
    assert isinstance(alone, ModelComparison)
    drop_magnitude(merged_source := copy.deepcopy(model))
    wrong = merged_source.merge_and_unload()
    pair = (compiled, wrong) if which == "reference" else (wrong, compiled)
    assert [x.layer for x in compare_models(*pair, INPUTS).layers if x.departs] == [LAYER]


def test_folders(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(base, adapter, tmp_path / "merged", "bfloat16")
    result = compare_models((base, adapter), tmp_path / "merged", INPUTS)
    assert result.passed, str(result)
    assert result.layers[0].limit > 2**-7  # the folder's own precision
    assert json.loads((adapter / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(base)
    assert_same_model(str(adapter), tmp_path / "merged", INPUTS)
    assert not compare_models(base, tmp_path / "merged", INPUTS).passed


def test_an_adapter_without_its_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "org/name"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"is an adapter, and its base 'org/name' is no folder here"
    ):
        compare_models(tmp_path, tiny_model(), INPUTS)


def test_a_model_is_not_compared_with_itself_by_mistake() -> None:
    model = sidecar()
    merged = model.merge_and_unload()  # in place
    with pytest.raises(ModelError, match=r"share their layers.*merge a copy \(copy\.deepcopy\)"):
        compare_models(model, merged, INPUTS)


@pytest.mark.parametrize(
    ("inputs", "match"), [([], "0 sequences"), ([[1], []], "2 sequences, 1 of them empty")]
)
def test_inputs_are_needed(inputs: list[list[int]], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        compare_models(tiny_model(), tiny_model(), inputs)


def test_models_without_a_common_layer_are_refused() -> None:
    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(400, 400)

    with pytest.raises(
        ModelError, match="LlamaForCausalLM and Other have no layer of the same name"
    ):
        compare_models(tiny_model(), Other(), INPUTS)


def test_layers_of_one_model_only_are_a_failure() -> None:
    result = compare_models(tiny_model(), tiny_model(num_hidden_layers=1), INPUTS)
    assert result.failures[0].startswith(
        "9 layers are in one of the models only, the first of them "
    )

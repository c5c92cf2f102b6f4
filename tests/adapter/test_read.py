from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from doratune import load_adapter
from doratune.adapter import read_adapter
from doratune.adapter.tuned import load_tuned
from doratune.errors import AdapterError
from tests.adapter.folders import (
    Q,
    Tensors,
    edit_config,
    edit_tensors,
    save_adapter,
    write_origin,
)
from tests.adapter.models import gpt2, tokens, with_dora
from tests.tiny import save_tiny, tiny_model


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter")


def test_reads_what_peft_wrote(adapter: Path) -> None:
    weights = read_adapter(adapter)
    assert len(weights.layers) == 14
    delta = weights.layers["model.layers.0.self_attn.q_proj"]
    assert delta.A.shape == (4, 32)
    assert delta.B.shape == (32, 4)
    assert delta.magnitude is not None
    assert delta.magnitude.dtype == torch.float32
    assert delta.scaling == 2.0
    assert not delta.fan_in_fan_out


def test_rslora_patterns_and_conv1d(tmp_path: Path) -> None:
    with_dora(
        gpt2(),
        trained=True,
        use_rslora=True,
        rank_pattern={"c_proj": 9},
        alpha_pattern={"c_proj": 3},
    ).save_pretrained(tmp_path)
    layers = read_adapter(tmp_path).layers
    assert layers["transformer.h.0.mlp.c_proj"].scaling == pytest.approx(1.0)
    assert layers["transformer.h.0.attn.c_attn"].scaling == pytest.approx(8 / 4**0.5)
    assert layers["transformer.h.0.attn.c_attn"].fan_in_fan_out


def test_round_trip_with_stock_peft(adapter: Path) -> None:
    """Here and there, from one folder: the same logits to float32 rounding."""
    ours = load_adapter(tiny_model(), adapter)
    theirs = PeftModel.from_pretrained(tiny_model(), str(adapter)).eval()
    torch.testing.assert_close(ours(tokens()).logits, theirs(tokens()).logits, rtol=1e-5, atol=1e-5)
    ours.save_pretrained(adapter.parent / "again")
    again = load_file(adapter.parent / "again" / "adapter_model.safetensors")
    for key, tensor in load_file(adapter / "adapter_model.safetensors").items():
        assert torch.equal(again[key], tensor), key


TENSOR_FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "no magnitude": (
        lambda t: t.pop(f"{Q}.lora_magnitude_vector"),
        r"layer model.layers.0.self_attn.q_proj: adapter_config.json says use_dora, but there is no",
    ),
    "no B": (lambda t: t.pop(f"{Q}.lora_B.weight"), "q_proj: lora_B missing; the file is not"),
    "short magnitude": (
        lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(31)}),
        r"lora_magnitude_vector has shape \(31,\); expected \(32,\)",
    ),
    "NaN": (
        lambda t: t[f"{Q}.lora_magnitude_vector"].fill_(float("nan")),
        "q_proj: lora_magnitude_vector holds values that are not finite",
    ),
    "zero magnitude": (
        lambda t: t[f"{Q}.lora_magnitude_vector"].zero_(),
        "q_proj: every magnitude is zero",
    ),
    "turned magnitude": (
        lambda t: t[f"{Q}.lora_magnitude_vector"][5].neg_(),
        r"q_proj: the magnitude of output feature 5 is -.* the layer's median is .*; expected norms",
    ),
    "integers": (
        lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 32, dtype=torch.int8)}),
        "stores .*q_proj.lora_A.weight as I8; expected one of F32, F16, BF16",
    ),
    "float64": (
        lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 32, dtype=torch.float64)}),
        "as F64; expected one of",
    ),
    "magnitude as a row": (
        lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(1, 32)}),
        r"lora_magnitude_vector has shape \(1, 32\); expected \(32,\)",
    ),
    "without prefix": (
        lambda t: t.update({f"{Q[17:]}.lora_A.weight": t.pop(f"{Q}.lora_A.weight")}),
        r"holds model.layers.0.self_attn.q_proj.lora_A.weight, which is no tensor of a LoRA or DoRA",
    ),
    "twice": (
        lambda t: t.update({f"{Q}.lora_magnitude_vector.weight": torch.ones(32)}),
        r"holds .*lora_magnitude_vector.weight, which is no tensor of a LoRA or DoRA",
    ),
    "names in memory": (
        lambda t: t.update(
            {f"{Q}.lora_magnitude_vector.default.weight": t.pop(f"{Q}.lora_magnitude_vector")}
        ),
        r"in another format: PEFT's names in memory .* Convert it with `doratune adapter convert`",
    ),
    "a layer that is not targeted": (
        lambda t: t.update(
            {
                "base_model.model.lm_head.lora_A.weight": torch.ones(4, 32),
                "base_model.model.lm_head.lora_B.weight": torch.ones(400, 4),
                "base_model.model.lm_head.lora_magnitude_vector": torch.ones(400),
            }
        ),
        r"layer lm_head: adapter_config.json does not adapt it \(target_modules",
    ),
    "a whole tensor": (
        lambda t: t.update({"base_model.model.model.norm.weight": torch.ones(32)}),
        r"holds base_model.model.model.norm.weight whole, but .* in modules_to_save \(\[\]\)",
    ),
    "wrong rank": (
        lambda t: t.update(
            {f"{Q}.lora_A.weight": torch.ones(3, 32), f"{Q}.lora_B.weight": torch.ones(32, 3)}
        ),
        "q_proj: lora_A has rank 3, but adapter_config.json says 4",
    ),
    "does not chain": (
        lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(5, 32)}),
        r"lora_A has shape \(5, 32\) and lora_B \(32, 4\)",
    ),
    "another method": (
        lambda t: t.update({f"{Q}.lora_C.weight": torch.ones(1)}),
        r"holds .*q_proj.lora_C.weight, which is no tensor of a LoRA or DoRA",
    ),
    "nothing": (lambda t: t.clear(), "holds no lora_A or lora_B tensor"),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_faulty_tensors_are_refused(adapter: Path, fault: str) -> None:
    change, message = TENSOR_FAULTS[fault]
    edit_tensors(adapter, change)
    with pytest.raises(AdapterError, match=message):
        load_adapter(tiny_model(), adapter)


def test_magnitudes_that_the_config_denies_are_refused(adapter: Path) -> None:
    edit_config(adapter, use_dora=False)
    with pytest.raises(
        AdapterError, match=r"there is a lora_magnitude_vector, but .* use_dora false"
    ):
        load_adapter(tiny_model(), adapter)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "LOHA"}, "says peft_type 'LOHA'; expected 'LORA'"),
        ({"r": 0}, "says r 0; expected a positive number"),
        ({"lora_alpha": None}, "says lora_alpha None"),
        ({"lora_alpha": float("inf")}, "says lora_alpha inf; expected a positive number"),
        ({"r": 4.5}, "says r 4.5; expected a positive number that is whole"),
        ({"use_dora": "yes"}, "says use_dora 'yes'; expected true or false"),
        ({"rank_pattern": {"q_proj": 0}}, "says rank_pattern .*; expected positive numbers by mod"),
        ({"alpha_pattern": {"(": 1}}, "says alpha_pattern .*; expected names that are regular exp"),
        ({"bias": "some"}, "says bias 'some'; expected 'none', 'all' or 'lora_only'"),
        ({"target_modules": []}, r"says target_modules \[\]; expected module names"),
        (
            {"layer_replication": [[0, 2]]},
            "sets layer_replication to .* repeats layers of the base",
        ),
        ({"use_future": 1}, "sets use_future to 1, which PEFT here does not know and would ignore"),
        ({"init_lora_weights": "pissa"}, "says init_lora_weights 'pissa', an initialisation that"),
        ({"target_modules": "("}, "does not say which modules it adapts"),
        ({"layers_pattern": "layers"}, "PEFT does not accept this adapter_config.json"),
    ],
)
def test_faulty_configs_are_refused(adapter: Path, values: dict[str, object], message: str) -> None:
    edit_config(adapter, **values)
    with pytest.raises(AdapterError, match=message):
        read_adapter(adapter)


def test_all_problems_are_counted(adapter: Path) -> None:
    edit_tensors(adapter, lambda t: [t.pop(key) for key in list(t) if "magnitude" in key])
    with pytest.raises(AdapterError, match=r"There are 14 problems; see `doratune inspect"):
        read_adapter(adapter)


def test_links_and_folders_in_the_place_of_files(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.rename(adapter.parent / "elsewhere.safetensors")
    file.symlink_to(adapter.parent / "elsewhere.safetensors")
    assert len(read_adapter(adapter).layers) == 14  # as in the hub's cache
    file.unlink()
    file.symlink_to("nowhere")
    with pytest.raises(AdapterError, match="is a link to nowhere, where there is no file"):
        read_adapter(adapter)
    file.unlink()
    file.symlink_to(file.name)
    with pytest.raises(AdapterError, match=r"is a link to adapter_model.safetensors, where there"):
        read_adapter(adapter)
    file.unlink()
    file.mkdir()
    with pytest.raises(AdapterError, match=r"holds no adapter_model.safetensors: it is no file"):
        read_adapter(adapter)


def test_a_header_that_claims_too_much(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    data = file.read_bytes()
    file.write_bytes((10**12).to_bytes(8, "little") + data[8:])
    with pytest.raises(AdapterError, match=r"cannot be read: .*[Hh]eader.* Is it a complete copy"):
        read_adapter(adapter)


def test_broken_files_are_refused(adapter: Path, tmp_path: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        AdapterError, match=r"adapter_model.safetensors cannot be read: .*complete copy"
    ):
        read_adapter(adapter)
    file.rename(adapter / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model.bin is a pickle file"):
        read_adapter(adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(AdapterError, match=r"holds no adapter_model.safetensors"):
        read_adapter(adapter)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match=r"adapter_config.json cannot be read"):
        read_adapter(adapter)
    with pytest.raises(AdapterError, match=r"is no adapter folder: it has no adapter_config.json"):
        read_adapter(tmp_path)


def test_another_architecture_is_refused(adapter: Path) -> None:
    with pytest.raises(
        AdapterError,
        match=r"layer model.layers.0.mlp.down_proj: the adapter adapts it, and this GPT2",
    ):
        load_adapter(gpt2(), adapter)
    with pytest.raises(
        AdapterError, match=r"fits a weight of shape \(32, 48\), but .* has \(32, 56\)"
    ):
        load_adapter(tiny_model(intermediate_size=56), adapter)


def test_a_refused_adapter_leaves_the_base_as_it_was(adapter: Path) -> None:
    base = tiny_model(seed=1)
    names, expected = dict(base.named_modules()).keys(), base(tokens()).logits
    with pytest.raises(AdapterError, match="do not belong to the weights"):
        load_adapter(base, adapter)
    assert dict(base.named_modules()).keys() == names
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert torch.equal(base(tokens()).logits, expected)
    assert load_adapter(base, adapter, any_base=True)(tokens()).logits.isfinite().all()


def test_a_conv1d_flag_on_linear_layers_is_refused(adapter: Path) -> None:
    edit_config(adapter, fan_in_fan_out=True)
    edit_tensors(adapter, lambda t: [t.pop(k) for k in list(t) if "q_proj" not in k])
    edit_config(adapter, target_modules=["q_proj"])
    with pytest.raises(AdapterError, match="says fan_in_fan_out true, but this layer is a Linear"):
        load_adapter(tiny_model(), adapter)


def test_another_base_of_the_same_shape_is_refused(
    adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    write_origin(adapter, tiny_base)
    model = load_tuned(tiny_base, adapter)
    assert model(tokens()).logits.shape == (3, 17, 400)
    other = save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(
        AdapterError, match=f"was trained on the/base with fingerprint .* {other} has"
    ):
        load_tuned(other, adapter)

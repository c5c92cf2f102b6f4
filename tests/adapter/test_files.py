from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from doratune import load_adapter
from doratune.adapter import read_adapter
from doratune.adapter.tuned import load_tuned
from doratune.base import fingerprint
from doratune.errors import AdapterError
from doratune.record.schemas import ORIGIN, AdapterOrigin
from tests.adapter.models import gpt2, tokens, with_dora
from tests.tiny import save_tiny, tiny_model

Q = "base_model.model.model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    with_dora(tiny_model(), trained=True).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit_tensors(adapter: Path, change: Callable[[Tensors], object]) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def edit_config(adapter: Path, **values: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


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
        r"holds .*q_proj.lora_C.weight, which is no tensor of a linear",
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
    ],
)
def test_faulty_configs_are_refused(adapter: Path, values: dict[str, object], message: str) -> None:
    edit_config(adapter, **values)
    with pytest.raises(AdapterError, match=message):
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
        AdapterError, match=r"adapts the layer model.layers.0.mlp.down_proj, which this GPT2"
    ):
        load_adapter(gpt2(), adapter)
    with pytest.raises(
        AdapterError, match=r"fits a weight of shape \(32, 48\), but .* has \(32, 56\)"
    ):
        load_adapter(tiny_model(intermediate_size=56), adapter)


def test_another_base_of_the_same_shape_is_refused(
    adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    AdapterOrigin(
        method="dora",
        base_source="the/base",
        base_fingerprint=fingerprint(tiny_base),
        data_digest="d",
        data_ordered_digest="o",
        split_digests={"train": "t"},
        recipe_digest="r",
        doratune="0",
    ).write(adapter / ORIGIN)
    model = load_tuned(tiny_base, adapter)
    assert model(tokens()).logits.shape == (3, 17, 400)
    other = save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(
        AdapterError, match=f"was trained on the/base with fingerprint .* {other} has"
    ):
        load_tuned(other, adapter)

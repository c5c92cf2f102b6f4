"""What PEFT 0.21 loses without an error, each shown, and that doratune keeps it or refuses.

Of bitsandbytes' repacking on CPUs, which makes dequantised weights garbage, see `test_quantized.py`.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import nn

from doratune import enable_fast_dora, load_adapter
from doratune.adapter.describe import describe
from doratune.errors import AdapterError, ConfigError
from tests.adapter.folders import edit_config, edit_tensors, save_adapter, write_origin
from tests.adapter.kinds import IN, OneLayer, bnb_4bit
from tests.adapter.models import tokens, with_dora
from tests.tiny import tiny_model

LOST = 0.01
"""Relative error of the logits that counts as a lost magnitude; rounding is below 1e-5."""


def relative_error(model: nn.Module, expected: torch.Tensor) -> float:
    with torch.no_grad():
        found = model(tokens()).logits
    return ((found - expected).norm() / expected.norm()).item()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter")


@pytest.fixture
def expected(adapter: Path) -> torch.Tensor:
    """Logits of the adapter as it was trained."""
    with torch.no_grad():
        return PeftModel.from_pretrained(tiny_model(), str(adapter)).eval()(tokens()).logits


def test_conversion_to_lora_drops_the_magnitude() -> None:
    """Hazard 1: a conversion at full rank should be exact."""

    def base() -> nn.Module:
        return tiny_model(num_key_value_heads=4)

    theirs = with_dora(base(), trained=True)
    with torch.no_grad():
        expected = theirs(tokens()).logits
    config, state = peft.convert_to_lora(theirs, rank=32)
    lora = peft.get_peft_model(base(), config)
    peft.set_peft_model_state_dict(lora, state)
    assert relative_error(lora.eval(), expected) > LOST

    ours = with_dora(base(), trained=True)
    enable_fast_dora(ours)
    with pytest.raises((TypeError, ValueError), match=r"support|convert"):
        peft.convert_to_lora(ours, rank=32)


def test_weighted_adapters_lose_the_magnitude(
    expected: torch.Tensor, tmp_path: Path, tiny_base: Path
) -> None:
    """Hazard 2: weight 1.0 of one adapter should be that adapter."""
    theirs = with_dora(tiny_model(), trained=True)
    theirs.add_weighted_adapter(["default"], [1.0], "weighted", combination_type="linear")
    theirs.set_adapter("weighted")
    assert relative_error(theirs, expected) > LOST

    theirs.save_pretrained(tmp_path, selected_adapters=["weighted"])
    notes = describe(tmp_path / "weighted", tiny_base).notes
    assert any("they have not been trained" in note for note in notes)


def test_use_dora_false_drops_the_magnitude(adapter: Path, expected: torch.Tensor) -> None:
    """Hazard 3, first half: PEFT does not even warn."""
    edit_config(adapter, use_dora=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        theirs = PeftModel.from_pretrained(tiny_model(), str(adapter)).eval()
    assert relative_error(theirs, expected) > LOST
    with pytest.raises(AdapterError, match="says use_dora false"):
        load_adapter(tiny_model(), adapter)


@pytest.mark.parametrize("layers", ["all", "some"])
def test_missing_magnitudes_are_filled_in(
    adapter: Path, expected: torch.Tensor, layers: str
) -> None:
    """Hazard 3, second half: PEFT goes on from the norms of the base."""
    edit_tensors(
        adapter,
        lambda tensors: [
            tensors.pop(key)
            for key in list(tensors)
            if "magnitude" in key and (layers == "all" or "q_proj" in key)
        ],
    )
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        theirs = PeftModel.from_pretrained(tiny_model(), str(adapter)).eval()
    assert relative_error(theirs, expected) > LOST / 2
    with pytest.raises(AdapterError, match="there is no lora_magnitude_vector"):
        load_adapter(tiny_model(), adapter)


def test_a_layer_left_out_is_filled_in(adapter: Path, expected: torch.Tensor) -> None:
    """The same for a whole layer, of which PEFT warns only."""
    edit_tensors(
        adapter, lambda tensors: [tensors.pop(key) for key in list(tensors) if "0.mlp.down" in key]
    )
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        theirs = PeftModel.from_pretrained(tiny_model(), str(adapter)).eval()
    assert relative_error(theirs, expected) > 1e-3
    with pytest.raises(
        AdapterError, match=r"layers.0.mlp.down_proj: adapter_config.json adapts it"
    ):
        load_adapter(tiny_model(), adapter)


def test_zero_rows_become_nan(tmp_path: Path) -> None:
    """Hazard 4: a pruned output feature of the base."""

    def pruned() -> nn.Module:
        model = tiny_model()
        model.model.layers[0].mlp.up_proj.weight.data[3] = 0
        return model

    with_dora(pruned(), trained=False).save_pretrained(tmp_path)
    theirs = PeftModel.from_pretrained(pruned(), str(tmp_path)).eval()
    assert theirs(tokens()).logits.isnan().any()
    ours = load_adapter(pruned(), tmp_path)
    assert torch.equal(ours(tokens()).logits, pruned()(tokens()).logits)


def test_a_fresh_adapter_is_not_the_base_in_bf16(tmp_path: Path) -> None:
    """Hazard 5: PEFT takes the initial magnitude from a norm in bf16."""
    base = tiny_model().bfloat16()
    with torch.no_grad():
        expected = base(tokens()).logits
    with_dora(base, trained=False).save_pretrained(tmp_path)
    theirs = PeftModel.from_pretrained(tiny_model().bfloat16(), str(tmp_path)).eval()
    assert not torch.equal(theirs(tokens()).logits, expected)
    ours = load_adapter(tiny_model().bfloat16(), tmp_path)
    assert torch.equal(ours(tokens()).logits, expected)


def test_merging_into_4_bits_rounds_the_adapter_away(tmp_path: Path, tiny_base: Path) -> None:
    """Hazard 6: PEFT merges and quantises again, with a warning; here nothing is done unasked."""
    from doratune.ship.merging.merge import merge

    pytest.importorskip("bitsandbytes")
    config = LoraConfig(use_dora=True, r=4, lora_alpha=8, target_modules=["layer"])
    torch.manual_seed(1)
    theirs = peft.get_peft_model(OneLayer(bnb_4bit(), bits=4), config)
    x = torch.randn(16, IN, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():  # in training mode: bitsandbytes repacks weights in evaluation
        untrained = theirs(x)
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.003)
        trained = theirs(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.merge_adapter()
        merged = theirs(x)
    assert (merged - trained).norm() > 0.3 * (trained - untrained).norm()

    adapter = save_adapter(tmp_path / "adapter")
    write_origin(adapter, tiny_base, quantize="nf4")
    with pytest.raises(ConfigError, match=r"in 4 bits \(nf4\), and merge.onto does not say"):
        merge(tiny_base, adapter, tmp_path / "merged", "float32")


def test_layers_outside_the_config_are_dropped(adapter: Path, expected: torch.Tensor) -> None:
    """Not in the list, and as silent: a target that config and weights do not agree on."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]
    edit_config(adapter, target_modules=targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        theirs = PeftModel.from_pretrained(tiny_model(), str(adapter)).eval()
    assert relative_error(theirs, expected) > 1e-3
    with pytest.raises(AdapterError, match=r"down_proj: adapter_config.json does not adapt it"):
        load_adapter(tiny_model(), adapter)


def test_settings_of_a_newer_peft_are_ignored(adapter: Path, expected: torch.Tensor) -> None:
    edit_config(adapter, use_nora=True)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        theirs = PeftModel.from_pretrained(tiny_model(), str(adapter)).eval()
    assert relative_error(theirs, expected) < 1e-5
    with pytest.raises(AdapterError, match="sets use_nora to True, which PEFT here does not know"):
        load_adapter(tiny_model(), adapter)


def test_base_weights_in_the_file_replace_those_of_the_base(
    adapter: Path, expected: torch.Tensor
) -> None:
    edit_tensors(
        adapter,
        lambda tensors: tensors.update({"base_model.model.model.norm.weight": 2 * torch.ones(32)}),
    )
    theirs = PeftModel.from_pretrained(tiny_model(), str(adapter)).eval()
    assert relative_error(theirs, expected) > 0.5
    with pytest.raises(AdapterError, match=r"holds base_model.model.model.norm.weight whole"):
        load_adapter(tiny_model(), adapter)


def test_another_base_is_taken(adapter: Path) -> None:
    """Of equal shapes: PEFT has no means to tell."""
    theirs = PeftModel.from_pretrained(tiny_model(seed=1), str(adapter)).eval()
    assert theirs(tokens()).logits.isfinite().all()
    with pytest.raises(AdapterError, match="its magnitudes do not belong to the weights of"):
        load_adapter(tiny_model(seed=1), adapter)


def test_lora_on_a_dora_config_is_the_config_of_one_training(tmp_path: Path) -> None:
    """A LoRA adapter stays one: nothing here asks for magnitudes that were never there."""
    save_adapter(tmp_path, use_dora=False)
    theirs = PeftModel.from_pretrained(tiny_model(), str(tmp_path)).eval()
    ours = load_adapter(tiny_model(), tmp_path)
    assert LoraConfig.from_pretrained(str(tmp_path)).use_dora is False
    torch.testing.assert_close(ours(tokens()).logits, theirs(tokens()).logits)

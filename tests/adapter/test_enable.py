from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, convert_to_lora, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from doratune import disable_fast_dora, enable_fast_dora
from doratune.adapter.base_weight import base_weight
from doratune.adapter.variant import FastDoraLinearVariant
from tests.accuracy import assert_as_accurate
from tests.adapter.models import (
    gpt2,
    llama_with_bias,
    loss_and_gradients,
    move_off_start,
    tokens,
    with_dora,
)
from tests.tiny import tiny_model

BASES = {
    "float32": tiny_model,
    "bfloat16": lambda: tiny_model().to(torch.bfloat16),
    "float32 with bias": llama_with_bias,
    "bfloat16 with bias": lambda: llama_with_bias(torch.bfloat16),
    "Conv1D": gpt2,
}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_a_fresh_adapter_changes_no_bit_of_the_logits(base: type[nn.Module]) -> None:
    plain = base()
    model = with_dora(plain, trained=False)
    enable_fast_dora(model)
    assert torch.equal(model(tokens()).logits, plain(tokens()).logits)


def test_peft_alone_changes_bf16_logits() -> None:
    """The reason for resetting untrained magnitudes; when this fails, PEFT has been mended."""
    plain = tiny_model().to(torch.bfloat16)
    assert not torch.equal(with_dora(plain, trained=False)(tokens()).logits, plain(tokens()).logits)


@pytest.mark.parametrize("base", [llama_with_bias, gpt2], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("rslora", [False, True], ids=["lora scaling", "rslora scaling"])
def test_loss_and_every_gradient_are_pefts(base: type[nn.Module], rslora: bool) -> None:
    """PEFT's DoRA in float64 is the truth, PEFT's DoRA in float32 the measure."""
    theirs = with_dora(base(), trained=True, use_rslora=rslora).train()
    if base is gpt2:
        theirs.eval()  # GPT-2 has dropout layers of its own
    exact_loss, exact = loss_and_gradients(copy.deepcopy(theirs).double())
    _, plain = loss_and_gradients(theirs)
    summary = enable_fast_dora(theirs)
    loss, found = loss_and_gradients(theirs)
    assert summary.num_magnitudes_reset == 0
    assert loss == pytest.approx(exact_loss, abs=1e-5)
    assert found.keys() == exact.keys()
    for name, gradient in found.items():
        assert_as_accurate(name, gradient, plain[name], exact[name], torch.float32)


@pytest.mark.parametrize("second", ["DoRA", "LoRA"])
def test_two_active_adapters_have_pefts_gradients(second: str) -> None:
    """The one applied second must send its gradient back through the first."""
    model = with_dora(tiny_model(), trained=False)
    config = copy.deepcopy(model.peft_config["default"])
    config.use_dora = second == "DoRA"
    model.add_adapter("second", config)
    for names in (["default", "second"], ["second", "default"]):
        model.base_model.set_adapter(names)
        move_off_start(model)
        theirs = copy.deepcopy(model).train()
        _, exact = loss_and_gradients(copy.deepcopy(theirs).double())
        _, plain = loss_and_gradients(theirs)
        enable_fast_dora(theirs)
        _, found = loss_and_gradients(theirs)
        assert found.keys() == exact.keys()
        for name, gradient in found.items():
            assert_as_accurate(name, gradient, plain[name], exact[name], torch.float32)


def test_bf16_base_with_float32_adapters_is_as_close_to_the_truth_as_peft() -> None:
    theirs = with_dora(llama_with_bias(torch.bfloat16), trained=True).train()
    exact_loss, exact = loss_and_gradients(copy.deepcopy(theirs).double())
    _, plain = loss_and_gradients(theirs)
    enable_fast_dora(theirs)
    loss, found = loss_and_gradients(theirs)
    assert loss == pytest.approx(exact_loss, abs=2e-2)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert_as_accurate(name, gradient, plain[name], exact[name], torch.bfloat16)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = with_dora(tiny_model(), trained=True, lora_dropout=0.3).train()
    enable_fast_dora(model)
    torch.manual_seed(4)
    loss, plain = loss_and_gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(4)
    again, recomputed = loss_and_gradients(model)
    assert again == loss
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=0, atol=0, msg=name)


def test_disable_puts_pefts_forward_back() -> None:
    model = with_dora(tiny_model(), trained=True)
    before, variants = model(tokens()).logits, _variants(model)
    enable_fast_dora(model)
    assert all(isinstance(v, FastDoraLinearVariant) for v in _variants(model))
    assert not any(m.cast_input_dtype_enabled for m in _lora_modules(model))
    disable_fast_dora(model)
    assert _variants(model) == variants
    assert all(m.cast_input_dtype_enabled for m in _lora_modules(model))
    assert torch.equal(model(tokens()).logits, before)


def test_enabling_twice_is_enabling_once() -> None:
    model = with_dora(tiny_model(), trained=True)
    enable_fast_dora(model)
    before = model(tokens()).logits
    assert len(enable_fast_dora(model).fast) == 14
    assert torch.equal(model(tokens()).logits, before)
    disable_fast_dora(model)
    assert not any(isinstance(v, FastDoraLinearVariant) for v in _variants(model))


def test_summary_names_what_is_left_to_peft() -> None:
    class Base(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv1d(4, 4, 3, groups=2)
            self.plain = nn.Conv1d(4, 4, 3)

    config = LoraConfig(use_dora=True, r=2, target_modules=["grouped", "plain"])
    summary = enable_fast_dora(get_peft_model(Base(), config))
    assert summary.fast == ["base_model.model.plain"]
    reason = "convolutions in groups have no fast form"
    assert summary.left_to_peft == {reason: ["base_model.model.grouped"]}
    assert str(summary) == (
        f"fast DoRA in 1 layers; left to PEFT: 1 ({reason}), such as base_model.model.grouped"
    )


@pytest.mark.parametrize("base", [llama_with_bias, gpt2], ids=["Linear", "Conv1D"])
def test_unmerging_makes_the_base_be_read_anew(base: type[nn.Module]) -> None:
    """In bf16, what comes back from a merge is not quite the weight that was there."""
    model = with_dora(base().to(torch.bfloat16), trained=True)
    enable_fast_dora(model)
    before = model(tokens()).logits
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    old = [m.lora_variant["default"].norm.base(m).norm_squared_O.clone() for m in layers]
    model.merge_adapter()
    model.unmerge_adapter()
    assert not torch.equal(model(tokens()).logits, before)
    for module, norm_squared in zip(layers, old, strict=True):
        found = module.lora_variant["default"].norm.base(module).norm_squared_O
        assert torch.equal(found, base_weight(module.get_base_layer()).norm_squared_O)
        assert not torch.equal(found, norm_squared)


def test_plain_lora_is_left_alone() -> None:
    model = with_dora(tiny_model(), trained=True, use_dora=False)
    before = model(tokens()).logits
    assert enable_fast_dora(model).fast == []
    assert torch.equal(model(tokens()).logits, before)


def test_trained_magnitudes_are_kept() -> None:
    model = with_dora(tiny_model().to(torch.bfloat16), trained=False)
    magnitude = _lora_modules(model)[0].lora_magnitude_vector["default"].weight
    magnitude.data.mul_(1.05)  # as after steps in which only magnitudes were trained
    before = magnitude.clone()
    assert enable_fast_dora(model).num_magnitudes_reset == 13, "all the others"
    assert torch.equal(magnitude, before)


def test_magnitudes_become_float32() -> None:
    model = with_dora(tiny_model().to(torch.bfloat16), trained=False)
    model.to(torch.bfloat16)
    enable_fast_dora(model)
    assert {p.dtype for n, p in model.named_parameters() if "magnitude" in n} == {torch.float32}


def test_adapters_by_name_and_none() -> None:
    base = tiny_model()
    model = with_dora(base, trained=True)
    first = model(tokens()).logits
    model.add_adapter("other", LoraConfig(use_dora=True, r=2, target_modules=["q_proj"]))
    enable_fast_dora(model)
    torch.testing.assert_close(model(tokens()).logits, first)
    model.set_adapter("other")
    assert torch.equal(model(tokens()).logits, base(tokens()).logits)
    with model.disable_adapter():
        assert torch.equal(model(tokens()).logits, base(tokens()).logits)
    model.set_adapter("default")
    torch.testing.assert_close(model(tokens()).logits, first)


def test_a_lora_adapter_beside_a_dora_adapter_in_bf16() -> None:
    """PEFT's own path of the other adapter still gets its input cast."""
    model = with_dora(tiny_model().to(torch.bfloat16), trained=True)
    model.add_adapter("plain", LoraConfig(r=2, target_modules="all-linear"))
    before = model(tokens()).logits
    enable_fast_dora(model)
    torch.testing.assert_close(model(tokens()).logits, before, rtol=0.1, atol=0.1)
    model.set_adapter("plain")
    assert model(tokens()).logits.isfinite().all()


def test_merge_and_unmerge() -> None:
    model = with_dora(llama_with_bias(), trained=True)
    enable_fast_dora(model)
    sidecar = model(tokens()).logits
    model.merge_adapter()
    torch.testing.assert_close(model(tokens()).logits, sidecar, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(model(tokens()).logits, sidecar, rtol=1e-4, atol=1e-4)


def test_conversion_to_lora_is_refused() -> None:
    """PEFT alone converts, and drops the magnitude without a word."""
    model = with_dora(tiny_model(), trained=True)
    enable_fast_dora(model)
    with pytest.raises(TypeError, match="do not support LoRA conversion"):
        convert_to_lora(model, rank=4)


def test_a_copy_has_layers_of_its_own() -> None:
    model = with_dora(tiny_model(), trained=True)
    enable_fast_dora(model)
    before = model(tokens()).logits
    twin = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(twin(tokens()).logits, before)


def test_a_hook_sees_the_base_result_unchanged() -> None:
    model = with_dora(tiny_model(), trained=True)
    enable_fast_dora(model)
    layer = _lora_modules(model)[0]
    x, kept = torch.randn(4, 32), []
    layer.base_layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    layer(x)
    assert torch.equal(kept[0], nn.functional.linear(x, layer.base_layer.weight))


def _lora_modules(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if hasattr(m, "lora_variant")]


def _variants(model: nn.Module) -> list[object]:
    return [v for m in _lora_modules(model) for v in m.lora_variant.values()]

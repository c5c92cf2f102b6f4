"""QDoRA: what bitsandbytes does on CPUs with AVX512-BF16, and float32 magnitudes."""

from __future__ import annotations

import types
from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from doratune import disable_fast_dora, enable_fast_dora
from doratune.adapter.base_weight import base_weight
from doratune.errors import AdapterError
from tests.adapter.kinds import IN, OneLayer, bnb_4bit
from tests.adapter.models import loss_and_gradients, move_off_start, tokens
from tests.tiny import save_tiny

modules = pytest.importorskip("bitsandbytes.nn.modules")
TARGETS = ["q_proj", "down_proj"]


class RepackedError(Exception):
    """Stands for the garbage that follows."""


@pytest.fixture
def avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with AVX512-BF16: this one, or what bitsandbytes does on it until it would repack."""
    if modules.has_avx512bf16():
        return

    def repack(*_: object) -> None:
        raise RepackedError

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(modules, "_convert_weight_packed_for_cpu", repack)


def _model(compute: torch.dtype = torch.bfloat16) -> PeftModel:
    torch.manual_seed(1)
    base = OneLayer(bnb_4bit(compute=compute), bits=4)
    config = LoraConfig(use_dora=True, r=4, lora_alpha=8, target_modules=["layer"])
    model = get_peft_model(base, config)
    move_off_start(model)
    return model


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    """Of everything trained, and of the input."""
    model.train().zero_grad()
    x = torch.ones(3, IN, requires_grad=True)
    model(x).square().sum().backward()
    assert x.grad is not None
    trained = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {**trained, "x": x.grad}


@pytest.mark.usefixtures("avx512")
def test_without_the_guard_bitsandbytes_repacks() -> None:
    """The reason for the guard; when this fails, bitsandbytes has changed."""
    model = _model()
    read = base_weight(model.base_model.model.layer.base_layer).rows
    every = torch.arange(96)
    before = read(every)
    try:
        with torch.no_grad():
            model.eval()(torch.ones(3, IN))
    except RepackedError:
        return
    assert (read(every) - before).norm() > before.norm(), "garbage"


@pytest.mark.usefixtures("avx512")
def test_evaluating_first_changes_no_gradient() -> None:
    straight, evaluated = _model(), _model()
    for model in (straight, evaluated):
        enable_fast_dora(model)
    layer = evaluated.base_model.model.layer.base_layer
    packed = layer.weight.data.clone()
    with torch.no_grad():
        evaluated.eval()(torch.ones(3, IN))
    assert torch.equal(layer.weight.data, packed)
    assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
    expected, found = _gradients(straight), _gradients(evaluated)
    assert expected.keys() == found.keys()
    assert len(expected) == 3 + 1
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.usefixtures("avx512")
def test_the_guard_covers_layers_without_an_adapter_and_stays() -> None:
    model = nn.ModuleList([_model(), bnb_4bit()])
    enable_fast_dora(model)
    disable_fast_dora(model)
    with torch.no_grad():
        model.eval()[0](torch.ones(3, IN))
        model[1](torch.ones(3, IN))


def test_a_repacked_weight_is_refused() -> None:
    model = _model()
    layer = model.base_model.model.layer.base_layer
    layer.weight.quant_state.packing_format_for_cpu = True
    message = "base_model.model.layer.base_layer: bitsandbytes has repacked this 4-bit weight"
    with pytest.raises(AdapterError, match=message):
        enable_fast_dora(model)
    assert (
        type(model.base_model.model.layer.lora_variant["default"]).__name__ == "DoraLinearVariant"
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_a_transformers_model_from_loading_to_a_trained_step(
    bits: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = save_tiny(tmp_path_factory.mktemp("base"), torch.bfloat16, hidden_size=64)
    quantization = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    # Twice: on a CPU, PEFT breaks an 8-bit layer that has run before the adapter is made (0.21.2).
    base, plain = (
        prepare_model_for_kbit_training(
            AutoModelForCausalLM.from_pretrained(
                path, quantization_config=quantization, dtype=torch.bfloat16, device_map="cpu"
            )
        )
        for _ in range(2)
    )
    model = get_peft_model(base, LoraConfig(use_dora=True, r=4, target_modules=TARGETS))
    summary = enable_fast_dora(model)
    assert len(summary.fast) == 4
    assert not summary.left_to_peft
    magnitudes = [p for n, p in model.named_parameters() if "magnitude" in n]
    assert {p.dtype for p in magnitudes} == {torch.float32}
    assert torch.equal(model.eval()(tokens()).logits, plain.eval()(tokens()).logits)
    start, _ = loss_and_gradients(model.train())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    old = [p.detach().clone() for p in magnitudes]
    for _ in range(3):
        loss, gradients = loss_and_gradients(model)
        assert len(gradients) == 3 * 4
        optimizer.step()
    assert loss < start
    assert not any(map(torch.equal, old, magnitudes))
    assert {p.dtype for p in magnitudes} == {torch.float32}


def test_enabling_keeps_no_dequantised_weight() -> None:
    """Nothing of the weight's size stays behind, and no forward makes one that outlives it."""
    model = _model()
    enable_fast_dora(model)
    variant = model.base_model.model.layer.lora_variant["default"]
    model(torch.ones(3, IN))
    held = [value for value in _reachable(variant) if isinstance(value, Tensor)]
    assert held
    assert max(tensor.numel() for tensor in held) < 96 * IN / 4


def _reachable(value: object) -> Iterator[object]:
    """Everything an object holds, without following layers."""
    yield value
    if isinstance(value, (list, tuple)):
        children: list[object] = list(value)
    elif isinstance(value, nn.Module | Tensor | types.FunctionType):
        children = []
    else:
        children = list(getattr(value, "__dict__", {}).values())
    for child in children:
        yield from _reachable(child)

"""Batches whose rows go through different adapters, which PEFT refuses for its own DoRA."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from doratune import disable_fast_dora, enable_fast_dora
from doratune.adapter import layer_states
from tests.adapter.kinds import IN, KINDS, OneLayer, bits, dtype
from tests.adapter.models import llama_with_bias, move_off_start, tokens, with_dora
from tests.tiny import tiny_model

NAMES = ["other", "__base__", "default", "lora", "default"]


def _with_three_adapters(model: PeftModel, **config: object) -> PeftModel:
    """DoRA twice, with different ranks and scalings, and a plain LoRA."""
    model.add_adapter("other", LoraConfig(use_dora=True, r=2, use_rslora=True, **config))
    model.add_adapter("lora", LoraConfig(use_dora=False, r=3, **config))
    move_off_start(model)
    return model.eval()


def _alone(model: PeftModel, name: str, x: Tensor) -> Tensor:
    if name == "__base__":
        with model.disable_adapter():
            return _logits(model(x))
    model.set_adapter(name)
    return _logits(model(x))


def _logits(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


@pytest.mark.parametrize("base", [tiny_model, llama_with_bias], ids=["plain", "with bias"])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_every_row_is_that_of_its_adapter(base: type[nn.Module], grad: bool) -> None:
    model = with_dora(base(), trained=True)
    _with_three_adapters(model, target_modules="all-linear")
    enable_fast_dora(model)
    x = torch.randint(0, 400, (5, 9))
    with torch.set_grad_enabled(grad):
        mixed = model(x, adapter_names=NAMES).logits
        alone = torch.cat([_alone(model, name, x[i : i + 1]) for i, name in enumerate(NAMES)])
    torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-5)
    rows = mixed.flatten(1)
    assert torch.cdist(rows, rows).add(100 * torch.eye(5)).min() > 0.1, "the adapters differ"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "HQQ" not in kind])
def test_every_row_on_every_kind_of_layer(kind: str) -> None:
    config = {"target_modules": ["layer"], "fan_in_fan_out": kind == "Conv1D"}
    model = get_peft_model(
        OneLayer(KINDS[kind](), bits(kind)), LoraConfig(use_dora=True, r=4, **config)
    )
    _with_three_adapters(model, **config)
    enable_fast_dora(model)
    x = torch.randn(5, 3, IN, dtype=dtype(kind))
    with torch.no_grad():
        mixed = model(x, adapter_names=NAMES)
        alone = torch.cat([_alone(model, name, x[i : i + 1]) for i, name in enumerate(NAMES)])
    tolerance = 2e-2 if dtype(kind) == torch.bfloat16 else 1e-4
    torch.testing.assert_close(mixed, alone, rtol=tolerance, atol=tolerance)


def test_every_row_of_a_convolution() -> None:
    torch.manual_seed(0)
    base = OneLayer(nn.Conv2d(3, 6, 3))
    config = {"target_modules": ["layer"]}
    model = get_peft_model(base, LoraConfig(use_dora=True, r=4, **config))
    _with_three_adapters(model, **config)
    enable_fast_dora(model)
    x = torch.randn(5, 3, 7, 6)
    mixed = model(x, adapter_names=NAMES)
    alone = torch.cat([_alone(model, name, x[i : i + 1]) for i, name in enumerate(NAMES)])
    torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-5)


def test_layers_whose_mixed_forward_would_leave_dora_out_still_refuse() -> None:
    """PEFT's ``_mixed_batch_forward`` of embeddings and HQQ layers knows plain LoRA only (0.21.2)."""
    model = with_dora(tiny_model(), trained=True, target_modules=["embed_tokens", "q_proj"])
    assert len(enable_fast_dora(model).fast) == 3
    with pytest.raises(ValueError, match="when DoRA is enabled"):
        model(tokens(), adapter_names=["default"] * 3)


def test_hqq_still_refuses() -> None:
    layer = OneLayer(KINDS["HQQ"]())
    model = get_peft_model(layer, LoraConfig(use_dora=True, r=4, target_modules=["layer"])).eval()
    enable_fast_dora(model)
    with pytest.raises(ValueError, match="when DoRA is enabled"):
        model(torch.randn(2, IN), adapter_names=["default"] * 2)


def test_an_adapter_left_to_peft_still_refuses() -> None:
    layer = OneLayer(nn.Conv2d(4, 6, 3, groups=2))
    model = get_peft_model(layer, LoraConfig(use_dora=True, r=4, target_modules=["layer"])).eval()
    assert enable_fast_dora(model).fast == []
    with pytest.raises(ValueError, match="when DoRA is enabled"):
        model(torch.randn(2, 4, 5, 5), adapter_names=["default"] * 2)


def test_disable_makes_peft_refuse_again() -> None:
    model = with_dora(tiny_model(), trained=True)
    enable_fast_dora(model)
    model(tokens(), adapter_names=["default"] * 3)
    disable_fast_dora(model)
    with pytest.raises(ValueError, match="when DoRA is enabled"):
        model(tokens(), adapter_names=["default"] * 3)


def test_merged_adapters_still_refuse() -> None:
    model = with_dora(tiny_model(), trained=True)
    enable_fast_dora(model)
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged adapters"):
        model(tokens(), adapter_names=["default"] * 3)


def test_inspection_still_knows_dora_from_lora() -> None:
    model = _with_three_adapters(with_dora(tiny_model(), trained=True), target_modules="all-linear")
    before = [[s.magnitude_change for s in layer_states(model, n)] for n in ("default", "lora")]
    enable_fast_dora(model)
    after = [[s.magnitude_change for s in layer_states(model, n)] for n in ("default", "lora")]
    assert len(before[0]) == len(before[1]) == 14
    torch.testing.assert_close(after, before)

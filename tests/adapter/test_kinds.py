from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from doratune import disable_fast_dora, enable_fast_dora
from doratune.adapter.base_weight import base_weight, chunks, forbid_repacking, why_no_base_weight
from tests.accuracy import assert_as_accurate
from tests.adapter.kinds import IN, KINDS, OUT, OneLayer, bits, dense_weight, dtype, model_with_dora

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_base_weight_against_the_dense_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 7 * IN)  # 13 pieces and a smaller one
    layer, W = KINDS[kind](), dense_weight(kind)
    x = torch.randn(3, IN, dtype=dtype(kind))
    before = layer.train()(x)
    base = base_weight(layer)
    A = torch.randn(5, IN)
    plain = W.to(dtype(kind))
    assert_as_accurate(
        "norm", base.norm_squared_O, W.float().square().sum(1), W.square().sum(1), torch.float32
    )
    assert_as_accurate(
        "project", base.project(A), plain @ A.to(plain.dtype).T, W @ A.double().T, dtype(kind)
    )
    torch.testing.assert_close(
        base.rows(torch.tensor([95, 3])).double(), W[[95, 3]], rtol=1e-6, atol=0
    )
    assert torch.equal(layer(x), before), "reading must not write"


@every_kind
def test_forward_and_gradients_against_float64_and_peft(kind: str) -> None:
    """The measure is PEFT's DoRA with A and B in the dtype of the products."""
    model, theirs = (model_with_dora(kind, trained=True) for _ in range(2))
    x = torch.randn(2, 7, IN, dtype=dtype(kind))
    dy = torch.randn(2, 7, OUT, dtype=dtype(kind))
    exact = _exact(model, kind, x, dy)
    layer = theirs.base_model.model.layer
    layer.lora_A.to(dtype(kind)), layer.lora_B.to(dtype(kind))
    plain = _outputs(theirs, x, dy)
    summary = enable_fast_dora(model)
    assert summary.fast == ["base_model.model.layer"]
    assert not summary.left_to_peft
    found = _outputs(model, x, dy)
    assert found.keys() == exact.keys() == plain.keys()
    for name, value in found.items():
        assert_as_accurate(f"{kind} {name}", value, plain[name], exact[name], dtype(kind))


@every_kind
def test_a_fresh_adapter_changes_no_bit(kind: str) -> None:
    base = KINDS[kind]().eval()
    forbid_repacking(base)  # as in the model: the packed weight's product rounds differently
    x = torch.randn(3, 5, IN, dtype=dtype(kind))
    model = model_with_dora(kind, trained=False)
    enable_fast_dora(model)
    assert _magnitude(model).dtype == torch.float32
    assert torch.equal(model(x), base(x))
    assert torch.equal(model.train()(x), base.train()(x)), "with gradients"


@every_kind
def test_adapter_files_are_pefts(kind: str, tmp_path: Path) -> None:
    model = model_with_dora(kind, trained=True)
    theirs = {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}
    enable_fast_dora(model)
    x = torch.randn(3, IN, dtype=dtype(kind))
    before = model(x)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {k: v.shape for k, v in saved.items()} == {k: v.shape for k, v in theirs.items()}
    assert all(torch.equal(saved[key], theirs[key]) for key in saved)
    again = PeftModel.from_pretrained(OneLayer(KINDS[kind](), bits(kind)), tmp_path).eval()
    enable_fast_dora(again)
    assert torch.equal(again(x), before)


@every_kind
def test_disable_puts_peft_back(kind: str) -> None:
    model, theirs = (model_with_dora(kind, trained=True) for _ in range(2))
    x = torch.randn(3, IN, dtype=dtype(kind))
    layer = model.base_model.model.layer
    variant = layer.lora_variant["default"]
    forbid_repacking(theirs)  # which `enable_fast_dora` does for good
    enable_fast_dora(model)
    disable_fast_dora(model)
    assert layer.lora_variant == {"default": variant}
    assert layer.use_dora == {"default": True}
    assert layer.cast_input_dtype_enabled
    assert torch.equal(model(x), theirs(x))


def test_layers_with_a_forward_of_their_own_are_left_to_peft() -> None:
    """Such as FP8 layers, which multiply with ``weight * scale``."""

    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    reason = "Scaled with weights of torch.float32 is not a kind of layer that is known"
    assert why_no_base_weight(Scaled(4, 4)) == reason
    assert why_no_base_weight(nn.Linear(4, 4, device="meta")) == "the weight is offloaded"
    assert why_no_base_weight(nn.Linear(4, 4).to(torch.float8_e4m3fn)) is not None
    assert why_no_base_weight(nn.Linear(4, 4)) is None


def test_what_peft_refuses_stays_refused() -> None:
    """MultiheadAttention and fused experts; when this fails, PEFT has learnt something new."""
    attention = OneLayer(nn.MultiheadAttention(8, 2))
    with pytest.raises(ValueError, match="does not support DoRA"):
        get_peft_model(attention, LoraConfig(use_dora=True, target_modules=["layer"]))
    experts = nn.Module()
    experts.weight = nn.Parameter(torch.randn(3, 8, 8))
    config = LoraConfig(use_dora=True, target_modules=[], target_parameters=["layer.weight"])
    with pytest.raises(ValueError, match="does not work with use_dora"):
        get_peft_model(OneLayer(experts), config)


def _magnitude(model: nn.Module) -> nn.Parameter:
    return model.base_model.model.layer.lora_magnitude_vector["default"].weight


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    layer = model.base_model.model.layer
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return {"A": A, "B": B, "m": _magnitude(model)}


def _outputs(model: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.backward(dy)
    gradients = {name: p.grad.clone() for name, p in _trained(model).items()}
    return {"y": y.detach(), "x": x.grad, **gradients}


def _exact(model: nn.Module, kind: str, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    layer, W = model.base_model.model.layer, dense_weight(kind)
    x = x.double().requires_grad_()
    leaves = {name: p.detach().double().requires_grad_() for name, p in _trained(model).items()}
    A, B, m = leaves.values()
    scaling, bias = layer.scaling["default"], layer.get_base_layer().bias.double()
    base = x @ W.T + bias
    if bits(kind) == 8:  # its forward rounds x to 8 bits, its backward does not
        base = base + (KINDS[kind]()(x.float()).double() - base).detach()
    g = m / (W + scaling * B @ A).norm(dim=1).detach()
    y = g * (base - bias + scaling * x @ A.T @ B.T) + bias
    y.backward(dy.double())
    return {"y": y.detach(), "x": x.grad, **{name: leaf.grad for name, leaf in leaves.items()}}

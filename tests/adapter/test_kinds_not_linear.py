"""Embeddings and convolutions: PEFT's formula in float64 is the truth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from doratune import disable_fast_dora, enable_fast_dora
from doratune.adapter.base_weight import base_weight, chunks
from tests.accuracy import assert_as_accurate
from tests.adapter.kinds import OneLayer
from tests.adapter.models import loss_and_gradients, move_off_start, tokens, with_dora
from tests.tiny import tiny_model

KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Embedding": (lambda: nn.Embedding(50, 24), ()),
    "Embedding with padding": (lambda: nn.Embedding(50, 24, padding_idx=3), ()),
    "scaled Embedding": (lambda: Gemma3TextScaledWordEmbedding(50, 24, 0, 5.0), ()),
    "Conv1d": (lambda: nn.Conv1d(6, 10, 3, stride=2, padding=1), (4, 6, 11)),
    "Conv1d without bias": (lambda: nn.Conv1d(6, 10, 1, bias=False), (4, 6, 11)),
    "Conv2d": (lambda: nn.Conv2d(6, 10, (3, 2), padding=(1, 0)), (4, 6, 9, 7)),
    "Conv2d one sample": (lambda: nn.Conv2d(6, 10, 1), (1, 6, 40, 30)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 2), (2, 4, 5, 4, 3)),
}

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_forward_and_gradients_are_pefts(kind: str) -> None:
    theirs = _model(kind, trained=True)
    exact = _outputs(copy.deepcopy(theirs).double(), _input(kind, torch.float64))
    plain = _outputs(theirs, _input(kind))
    summary = enable_fast_dora(theirs)
    assert (summary.fast, summary.left_to_peft) == (["base_model.model.layer"], {})
    assert summary.num_magnitudes_reset == 0
    found = _outputs(theirs, _input(kind))
    assert found.keys() == exact.keys()
    for name, value in found.items():
        assert_as_accurate(f"{kind} {name}", value, plain[name], exact[name], torch.float32)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_changes_no_bit(kind: str, dtype: torch.dtype) -> None:
    x = _input(kind, dtype)
    base = _layer(kind).to(dtype)
    model = _model(kind, trained=False, base=base)
    enable_fast_dora(model)
    assert _magnitude(model).dtype == torch.float32
    assert torch.equal(model(x), base(x))


@every_kind
def test_adapter_files_are_pefts(kind: str, tmp_path: Path) -> None:
    model = _model(kind, trained=True)
    model.save_pretrained(tmp_path / "peft")
    enable_fast_dora(model)
    model.save_pretrained(tmp_path / "fast")
    theirs, ours = (
        load_file(tmp_path / by / "adapter_model.safetensors") for by in ("peft", "fast")
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    again = PeftModel.from_pretrained(OneLayer(_layer(kind)), tmp_path / "fast").eval()
    enable_fast_dora(again)
    assert torch.equal(again(_input(kind)), model(_input(kind)))


@every_kind
def test_merge_is_pefts(kind: str) -> None:
    model = _model(kind, trained=True)
    enable_fast_dora(model)
    sidecar = model(_input(kind))
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(_input(kind)), sidecar, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(model(_input(kind)), sidecar, rtol=1e-4, atol=1e-5)


@every_kind
def test_base_weight_against_the_dense_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 100)
    layer = _layer(kind)
    W = (
        layer.weight.detach().T
        if isinstance(layer, nn.Embedding)
        else layer.weight.detach().flatten(1)
    )
    base, A = base_weight(layer), torch.randn(3, W.shape[1])
    exact = W.double().square().sum(1)
    assert_as_accurate("norm", base.norm_squared_O, W.square().sum(1), exact, torch.float32)
    assert_as_accurate(
        "project", base.project(A), W @ A.T, W.double() @ A.double().T, torch.float32
    )
    assert torch.equal(base.rows(torch.tensor([2])), W[[2]])


def test_dropout_of_a_convolution_is_on_the_low_rank_branch_only() -> None:
    model = _model("Conv2d", trained=True, lora_dropout=1.0)
    enable_fast_dora(model)
    layer, x = model.base_model.model.layer, _input("Conv2d")
    base, bias = layer.base_layer(x), layer.base_layer.bias[:, None, None]
    norm = layer.lora_variant["default"].weight_norm(layer, "default")
    g = (_magnitude(model).flatten() / norm)[:, None, None]
    torch.testing.assert_close(model.train()(x), g * (base - bias) + bias)


def test_a_dead_channel_keeps_its_bias_and_gets_no_gradient() -> None:
    base = _layer("Conv2d")
    base.weight.data[4] = 0
    model = _model("Conv2d", trained=False, base=base)
    enable_fast_dora(model)
    assert torch.equal(model(_input("Conv2d")), base(_input("Conv2d")))
    model(_input("Conv2d")).sum().backward()
    gradient = _magnitude(model).grad.flatten()
    assert gradient.isfinite().all()
    assert gradient[4] == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"groups": 2}, "convolutions in groups have no fast form"),
        ({"dilation": 2}, "dilated convolutions, and those not padded with zeros"),
        ({"padding_mode": "circular", "padding": 1}, "dilated convolutions, and those not padded"),
    ],
)
def test_convolutions_left_to_peft(options: dict[str, object], reason: str) -> None:
    base = nn.Conv2d(4, 6, 3, **options)
    summary = enable_fast_dora(_model("Conv2d", trained=False, base=base))
    assert summary.fast == []
    assert [text.startswith(reason) for text in summary.left_to_peft] == [True]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("ensure", [True, False], ids=["ensure_weight_tying", "free"])
def test_language_model_with_adapted_embedding_and_head(tied: bool, ensure: bool) -> None:
    if ensure and not tied:
        pytest.skip("PEFT ties adapters of tied weights only")
    targets = ["embed_tokens", "lm_head", "q_proj"]
    base = tiny_model(tie_word_embeddings=tied)
    # made twice, because PEFT's model with tied adapters cannot be copied
    theirs, double = (
        with_dora(base, trained=True, target_modules=targets, ensure_weight_tying=ensure)
        for _ in range(2)
    )
    exact_loss, exact = loss_and_gradients(double.double())
    _, plain = loss_and_gradients(theirs)
    assert len(enable_fast_dora(theirs).fast) == 4
    loss, found = loss_and_gradients(theirs)
    assert loss == pytest.approx(exact_loss, abs=1e-5)
    assert found.keys() == exact.keys()
    for name, gradient in found.items():
        assert_as_accurate(name, gradient, plain[name], exact[name], torch.float32)
    fresh = with_dora(base, trained=False, target_modules=targets, ensure_weight_tying=ensure)
    enable_fast_dora(fresh)
    assert torch.equal(fresh(tokens()).logits, base(tokens()).logits)


def test_gradients_reach_an_embedding_whose_output_was_marked_for_checkpointing() -> None:
    """``enable_input_require_grads`` hooks into the embedding, and its output becomes a leaf."""
    base = tiny_model()
    base.enable_input_require_grads()
    targets = ["embed_tokens", "q_proj"]
    model = get_peft_model(base, LoraConfig(use_dora=True, r=4, target_modules=targets))
    move_off_start(model)
    _, plain = loss_and_gradients(model)
    enable_fast_dora(model)
    _, found = loss_and_gradients(model)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6, msg=name)


def test_two_adapters_and_none_on_an_embedding() -> None:
    model = _model("Embedding", trained=True)
    model.add_adapter("other", LoraConfig(use_dora=True, r=2, target_modules=["layer"]))
    x, first = _input("Embedding"), model(_input("Embedding"))
    enable_fast_dora(model)
    torch.testing.assert_close(model(x), first)
    model.set_adapter("other")
    assert torch.equal(model(x), _layer("Embedding")(x))
    model.set_adapter("default")
    with model.disable_adapter():
        assert torch.equal(model(x), _layer("Embedding")(x))
    disable_fast_dora(model)
    assert torch.equal(model(x), first)


def _layer(kind: str) -> nn.Module:
    torch.manual_seed(3)
    return KINDS[kind][0]()


def _input(kind: str, dtype: torch.dtype = torch.float32) -> Tensor:
    draw, shape = torch.Generator().manual_seed(9), KINDS[kind][1]
    if shape:
        return torch.randn(shape, generator=draw).to(dtype)
    return torch.randint(0, 50, (3, 17), generator=draw)


def _model(
    kind: str, *, trained: bool, base: nn.Module | None = None, **config: object
) -> PeftModel:
    settings: dict[str, object] = {"r": 4, "lora_alpha": 8, "target_modules": ["layer"]}
    layer = _layer(kind) if base is None else copy.deepcopy(base)
    torch.manual_seed(1)
    model = get_peft_model(OneLayer(layer), LoraConfig(use_dora=True, **{**settings, **config}))
    if trained:
        move_off_start(model)
        for name, parameter in model.named_parameters():
            if "lora_embedding_A" in name:
                parameter.data.normal_(std=0.1)
    return model.eval()


def _magnitude(model: nn.Module) -> nn.Parameter:
    return model.base_model.model.layer.lora_magnitude_vector["default"].weight


def _outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    if x.is_floating_point():
        x = x.clone().requires_grad_()
    y = model(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"y": y.detach(), **({} if x.grad is None else {"x": x.grad}), **gradients}

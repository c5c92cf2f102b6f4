"""Each layer answers for itself, whatever wraps the models."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from torch import nn

from doratune.errors import ModelError
from doratune.ship.verification.compare_layers import Watch, layers_of, output_limit
from tests.ship.adapters import peft_model, randomise
from tests.tiny import tiny_model

IDS = torch.tensor([[5, 60, 7, 200, 9, 10, 300]])


def sidecar(**config: object) -> PeftModel:
    return randomise(peft_model(tiny_model(), **config)).eval()


def watched(reference: nn.Module, other: nn.Module, dtype: torch.dtype | None = None) -> Watch:
    watch = Watch(reference, other, dtype)
    with watch.running(), torch.no_grad():
        reference(IDS)
        reference(IDS[:, :2])
    return watch


def test_an_error_is_that_of_float64() -> None:
    model, other = tiny_model(), tiny_model()
    layer = "model.layers.1.mlp.down_proj"
    with torch.no_grad():
        other.get_submodule(layer).weight.mul_(1.25)
        other.get_submodule("model.layers.0.mlp.up_proj").weight[3] = 0
    seen = []
    handle = model.get_submodule("model.layers.0.mlp.up_proj").register_forward_hook(
        lambda _, args, y: seen.append(y[0].double())
    )
    found = {x.layer: x for x in watched(model, other).layers()}
    handle.remove()
    y = torch.cat(seen)
    assert found[layer].output_error == pytest.approx(0.25, rel=1e-6)
    up = found["model.layers.0.mlp.up_proj"]
    assert up.output_error == pytest.approx((y[:, 3].norm() / y.norm()).item(), rel=1e-6)
    assert [x.layer for x in found.values() if x.departs] == [up.layer, layer]
    assert all(x.output_error == 0 for x in found.values() if not x.departs)


def test_layers_are_named_as_in_the_base_model() -> None:
    names = list(layers_of(tiny_model()))
    assert {"model.embed_tokens", "model.norm", "lm_head", "model.rotary_emb"} < set(names)
    model = sidecar(modules_to_save=["norm"])
    assert list(layers_of(model)) == names
    assert list(layers_of(nn.DataParallel(model))) == names
    assert list(layers_of(torch.compile(model))) == names
    model.get_base_model().model.layers[0].compile()
    assert list(layers_of(model)) == names
    part = tiny_model()
    part.model.layers[0] = torch.compile(part.model.layers[0])
    assert list(layers_of(part)) == names


def test_layers_of_one_model_only_are_told() -> None:
    watch = Watch(tiny_model(), tiny_model(num_hidden_layers=1))
    assert watch.unmatched[0] == "model.layers.1.input_layernorm"
    assert watch.num_pairs == 13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_rounded_merge_is_within_its_limit(dtype: torch.dtype) -> None:
    model = sidecar()
    merged = copy.deepcopy(model).merge_and_unload()
    for name, parameter in merged.named_parameters():
        parameter.data = parameter.data.to(dtype)
        assert not name.endswith("inv_freq")
    held = copy.deepcopy(merged).float()
    for watch in (watched(model, merged), watched(model, held, dtype)):
        worst = max(watch.layers(), key=lambda x: x.output_error / x.limit)
        u = torch.finfo(dtype).eps / 2
        assert worst.limit == output_limit(u)
        assert worst.output_error < worst.limit / 2
        assert watch.roundoff == u


def test_another_shape_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"Layer model.layers.0.mlp.gate_proj gives \(1, 7, 64\) in"
    ):
        watched(tiny_model(), tiny_model(intermediate_size=64))

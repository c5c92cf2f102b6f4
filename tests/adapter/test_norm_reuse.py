"""The norm is computed once where its weights stand still; copies and other devices."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import doratune.adapter.adapted_norm as norm_module
from doratune.adapter.reuse import Reused
from tests.adapter.models import tokens
from tests.adapter.test_norm_after_changes import edit_through_data, with_second_adapter
from tests.adapter.test_optimizers import adapted, assert_norms_are_current, dora_model

LAYERS = 2


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The norms computed so far, by the real op."""
    norms: list[Tensor] = []
    compute = norm_module.weight_norm

    def listed(*arguments: object) -> Tensor:
        norms.append(compute(*arguments))
        return norms[-1]

    monkeypatch.setattr(norm_module, "weight_norm", listed)
    return norms


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_once_in_an_optimizer_step(
    computed: list[Tensor], fused: bool, checkpointing: bool
) -> None:
    model = dora_model()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=fused)
    for step in range(1, 4):
        for _ in range(3):
            model(input_ids=tokens(), labels=tokens()).loss.backward()
        assert len(computed) == LAYERS * step
        optimizer.step()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_once_in_evaluation(computed: list[Tensor], context: Callable[[], object]) -> None:
    model = dora_model().eval()
    with context():
        outputs = [model(tokens()).logits for _ in range(3)]
    assert len(computed) == LAYERS
    assert torch.equal(outputs[0], outputs[2])


def test_once_in_evaluation_with_gradients(computed: list[Tensor]) -> None:
    model = dora_model().eval()
    for _ in range(3):
        model(tokens())
    assert len(computed) == LAYERS


def test_each_adapter_keeps_its_own(computed: list[Tensor]) -> None:
    model = with_second_adapter()
    computed.clear()  # enabling has computed some
    with torch.no_grad():
        for name in ("default", "other", "default", "other"):
            model.set_adapter(name)
            model(tokens())
    assert len(computed) == 2 * LAYERS


def test_a_copy_and_its_original_go_their_own_ways() -> None:
    model = dora_model().eval()
    model(tokens())
    twin = copy.deepcopy(model)
    edit_through_data(twin)
    assert_norms_are_current(twin, "of the copy")
    assert_norms_are_current(model, "of the original")
    for module in adapted(twin):
        module.get_base_layer().weight.data.zero_()
    assert_norms_are_current(model, "of the original")


def test_a_pickled_model_comes_back_whole(computed: list[Tensor]) -> None:
    model = dora_model().eval()
    before = model(tokens()).logits
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    computed.clear()
    assert torch.equal(again(tokens()).logits, before)
    assert len(computed) == LAYERS, "a norm in the file is one whose weights could be changed"
    edit_through_data(again)
    assert_norms_are_current(again, "of the loaded model")


def test_a_norm_kept_in_inference_mode_serves_training() -> None:
    model = dora_model()
    with torch.inference_mode():
        model(tokens())
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


class TestWhereContentsCannotBeCompared:
    """The rules for GPUs, on ``meta`` tensors: like those, they cannot be compared without a stall."""

    def made(self, reused: Reused[int], parameter: nn.Parameter, training: bool = True) -> bool:
        calls: list[int] = []
        reused.get([parameter], None, training, lambda: calls.append(1) or 1)
        return bool(calls)

    def test_an_optimizer_step_is_seen(self) -> None:
        parameter, reused = nn.Parameter(torch.empty(4, 4, device="meta")), Reused[int]()
        # The step of some optimizer is all that tells: fused and 8-bit ones leave no other trace.
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        for _ in range(3):
            parameter.data.mul_(2)
            optimizer.step()
            assert self.made(reused, parameter)
            assert not self.made(reused, parameter)

    def test_an_edit_in_place_is_seen(self) -> None:
        parameter, reused = nn.Parameter(torch.empty(4, 4, device="meta")), Reused[int]()
        assert self.made(reused, parameter)
        with torch.no_grad():
            parameter.mul_(2)
        assert self.made(reused, parameter)

    def test_evaluation_after_training_is_seen(self) -> None:
        parameter, reused = nn.Parameter(torch.empty(4, 4, device="meta")), Reused[int]()
        assert self.made(reused, parameter, training=True)
        assert self.made(reused, parameter, training=False)
        assert not self.made(reused, parameter, training=False)

"""The norm is right after everything that moves its weights or its scale, optimizers aside."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from doratune import enable_fast_dora
from tests.adapter.models import llama_with_bias, move_off_start, tokens, with_dora
from tests.adapter.test_optimizers import adapted, assert_norms_are_current, dora_model


def with_second_adapter() -> nn.Module:
    model = dora_model().eval()
    targets = ["q_proj", "down_proj"]
    model.add_adapter("other", LoraConfig(use_dora=True, r=2, target_modules=targets))
    move_off_start(model)
    enable_fast_dora(model)
    return model


def factors(model: nn.Module) -> list[nn.Parameter]:
    return [p for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n]


def moved_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's state dict, with every factor moved by some percent."""
    state = get_peft_model_state_dict(model)
    return {name: 1.3 * tensor if "magn" not in name else tensor for name, tensor in state.items()}


@torch.no_grad()
def edit_in_place(model: nn.Module) -> None:
    for parameter in factors(model):
        parameter.mul_(1.3)


def edit_through_data(model: nn.Module) -> None:
    for parameter in factors(model):
        parameter.data.mul_(1.3)


def edit_one_element_through_data(model: nn.Module) -> None:
    for module in adapted(model):
        module.lora_B["default"].weight.data[3, 1] += 0.5


def edit_through_numpy(model: nn.Module) -> None:
    for parameter in factors(model):
        array = parameter.detach().numpy()
        array *= 1.3


def exchange_data(model: nn.Module) -> None:
    for parameter in factors(model):
        parameter.data = 1.3 * parameter.data


def exchange_data_and_edit_the_old(model: nn.Module) -> None:
    """The parameters keep their contents; what they were views of does not."""
    for parameter in factors(model):
        old, parameter.data = parameter.data, parameter.data.clone()
        with torch.no_grad():
            model(tokens())
        old.mul_(1.3)


def exchange_parameters(model: nn.Module) -> None:
    for module in adapted(model):
        A = module.lora_A["default"]
        A.weight = nn.Parameter(1.3 * A.weight.detach())


def swap_and_swap_back(model: nn.Module) -> None:
    """As averaged weights are put in for an evaluation; the norm of the average must go again."""
    kept = [parameter.detach().clone() for parameter in factors(model)]
    edit_through_data(model)
    model(tokens())
    assert_norms_are_current(model, "with the other weights in")
    for parameter, own in zip(factors(model), kept, strict=True):
        parameter.data.copy_(own)


def load_whole_state_dict(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    edit_in_place(other)
    model.load_state_dict(other.state_dict())


def load_and_assign(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    edit_in_place(other)
    model.load_state_dict(other.state_dict(), assign=True)


def load_adapter_state(model: nn.Module) -> None:
    set_peft_model_state_dict(model, moved_state(model))


def set_scale(model: nn.Module) -> None:
    for module in adapted(model):
        module.set_scale("default", 0.5)


def scale_layer(model: nn.Module) -> None:
    for module in adapted(model):
        module.scale_layer(1.5)


def unscale_layer(model: nn.Module) -> None:
    scale_layer(model)
    model(tokens())
    for module in adapted(model):
        module.unscale_layer()


def another_dtype(model: nn.Module) -> None:
    for module in adapted(model):
        module.lora_A["default"].to(torch.float64)
        module.lora_B["default"].to(torch.float64)


def to_bfloat16_and_back(model: nn.Module) -> None:
    """Rounds the factors."""
    for module in adapted(model):
        for holder in (module.lora_A, module.lora_B):
            holder["default"].to(torch.bfloat16)
            holder["default"].to(torch.float32)


def in_inference_mode(model: nn.Module) -> None:
    with torch.inference_mode():
        model(tokens())
        for parameter in factors(model):
            parameter.mul_(1.3)


def delete_and_add_again(model: nn.Module) -> None:
    model.add_adapter("other", LoraConfig(use_dora=True, r=2, target_modules=["q_proj"]))
    model.set_adapter("other")
    model.delete_adapter("default")
    targets = ["q_proj", "down_proj"]
    config = LoraConfig(use_dora=True, r=4, lora_alpha=8, target_modules=targets)
    model.add_adapter("default", config)
    model.set_adapter("default")
    enable_fast_dora(model)
    move_off_start(model)


CHANGES = (
    edit_in_place,
    edit_through_data,
    edit_one_element_through_data,
    edit_through_numpy,
    exchange_data,
    exchange_data_and_edit_the_old,
    exchange_parameters,
    swap_and_swap_back,
    load_whole_state_dict,
    load_and_assign,
    load_adapter_state,
    set_scale,
    scale_layer,
    unscale_layer,
    another_dtype,
    to_bfloat16_and_back,
    in_inference_mode,
    delete_and_add_again,
)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])
def test_right_after(change: Callable[[nn.Module], None], training: bool) -> None:
    model = dora_model().train(training)
    with torch.set_grad_enabled(training):
        model(tokens())
        assert_norms_are_current(model, "before")
        change(model)
        assert_norms_are_current(model, "after")
    # The output follows too, not only what weight_norm says: a model without a history gives the same.
    model.eval()
    fresh = copy.deepcopy(model)
    enable_fast_dora(fresh)
    with torch.no_grad():
        assert torch.equal(model(tokens()).logits, fresh(tokens()).logits)


def test_a_changed_bias_is_seen_in_evaluation() -> None:
    model = with_dora(llama_with_bias(), trained=True)
    enable_fast_dora(model)
    with torch.no_grad():
        model(tokens())
        for module in adapted(model):
            module.get_base_layer().bias.data.add_(0.5)
        fresh = copy.deepcopy(model)
        enable_fast_dora(fresh)
        assert torch.equal(model(tokens()).logits, fresh(tokens()).logits)


def test_right_after_switching_adapters_and_modes() -> None:
    model = with_second_adapter()
    for name, training in [
        ("default", True),
        ("other", False),
        ("default", False),
        ("other", True),
    ]:
        model.set_adapter(name)
        model.train(training)
        model(tokens())
        for parameter in factors(model):
            parameter.data.mul_(1.1)
        assert_norms_are_current(model, f"{name}, training={training}")

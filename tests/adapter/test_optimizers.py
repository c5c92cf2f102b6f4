"""The norm that a forward uses is that of the weights now, whichever optimizer moved them.

Optimizers differ in what they tell PyTorch: ``AdamW(fused=True)``, bitsandbytes' optimizers and updates
through ``.data`` leave ``Tensor._version`` as it was; updates by hand run no optimizer hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import Adafactor

from doratune import enable_fast_dora
from tests.accuracy import assert_as_accurate
from tests.adapter.models import tokens, with_dora
from tests.tiny import tiny_model

STEPS = 12
Step = Callable[[Callable[[], Tensor]], object]


def stepping(optimizer: torch.optim.Optimizer) -> Step:
    def step(closure: Callable[[], Tensor]) -> None:
        closure()
        optimizer.step()

    return step


def by_hand(parameters: list[nn.Parameter]) -> Step:
    def step(closure: Callable[[], Tensor]) -> None:
        closure()
        with torch.no_grad():
            for parameter in parameters:
                parameter -= 0.1 * parameter.grad

    return step


def by_hand_through_data(parameters: list[nn.Parameter]) -> Step:
    def step(closure: Callable[[], Tensor]) -> None:
        closure()
        for parameter in parameters:
            parameter.data.add_(parameter.grad, alpha=-0.1)

    return step


def by_hand_exchanging_data(parameters: list[nn.Parameter]) -> Step:
    def step(closure: Callable[[], Tensor]) -> None:
        closure()
        for parameter in parameters:
            parameter.data = parameter.data - 0.1 * parameter.grad

    return step


def bitsandbytes(name: str, parameters: list[nn.Parameter]) -> Step:
    optim = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed").optim
    # Smaller tensors than min_8bit_size would keep 32-bit states, whatever the optimizer's name.
    return stepping(getattr(optim, name)(parameters, lr=1e-2, min_8bit_size=1))


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Step]] = {
    "SGD": lambda p: stepping(torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "AdamW, a loop": lambda p: stepping(torch.optim.AdamW(p, lr=1e-2, foreach=False)),
    "AdamW, foreach": lambda p: stepping(torch.optim.AdamW(p, lr=1e-2, foreach=True)),
    "AdamW, fused": lambda p: stepping(torch.optim.AdamW(p, lr=1e-2, fused=True)),
    "torch's Adafactor": lambda p: stepping(torch.optim.Adafactor(p, lr=1e-2)),
    "transformers' Adafactor": lambda p: stepping(
        Adafactor(p, lr=1e-2, scale_parameter=False, relative_step=False)
    ),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3).step,
    "bitsandbytes AdamW8bit": lambda p: bitsandbytes("AdamW8bit", p),
    # bitsandbytes 0.50.2 does not page on a CPU; the update is the same.
    "bitsandbytes PagedAdamW8bit": lambda p: bitsandbytes("PagedAdamW8bit", p),
    "bitsandbytes PagedAdamW32bit": lambda p: bitsandbytes("PagedAdamW32bit", p),
    "by hand": by_hand,
    "by hand through .data": by_hand_through_data,
    "by hand, exchanging .data": by_hand_exchanging_data,
}


def dora_model() -> nn.Module:
    """One decoder layer, adapted in two places, with every draw of the dropout that training has."""
    base = tiny_model(num_hidden_layers=1)
    model = with_dora(base, trained=True, target_modules=["q_proj", "down_proj"], lora_dropout=0.1)
    enable_fast_dora(model)
    return model.train()


def adapted(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if "default" in getattr(module, "lora_A", ()))


@torch.no_grad()
def assert_norms_are_current(model: nn.Module, when: str) -> list[Tensor]:
    """Compares the norm that the next forward would use with the dense one in float64."""
    norms = []
    for module in adapted(model):
        W = module.get_base_layer().weight
        A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
        s = module.scaling["default"]
        exact = (W.double() + s * B.double() @ A.double()).norm(dim=1)
        plain = (W + s * B.float() @ A.float()).norm(dim=1)
        found = module.lora_variant["default"].weight_norm(module, "default")
        assert_as_accurate(f"norm {when}", found, plain, exact, torch.float32)
        norms.append(exact)
    return norms


CHECKPOINTING = {
    "kept": None,
    "recomputed": {"use_reentrant": False},
    "reentrant": {"use_reentrant": True},
}
QUICK = {("kept", 1), ("recomputed", 3)}
"""Run with every optimizer by default; all settings are with one that tells PyTorch nothing."""


def settings() -> Iterator[object]:
    for name, optimizer in OPTIMIZERS.items():
        for checkpointing, config in CHECKPOINTING.items():
            for accumulation in (1, 3):
                quick = (checkpointing, accumulation) in QUICK or name == "AdamW, fused"
                yield pytest.param(
                    optimizer,
                    accumulation,
                    config,
                    id=f"{name}-{checkpointing}-{accumulation}",
                    marks=() if quick else pytest.mark.slow,
                )


@pytest.mark.parametrize(("optimizer", "accumulation", "checkpointing"), settings())
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_every_forward_uses_the_norm_of_the_weights_now(
    optimizer: Callable[[list[nn.Parameter]], Step],
    accumulation: int,
    checkpointing: dict[str, bool] | None,
) -> None:
    model = dora_model()
    if checkpointing:
        model.enable_input_require_grads()  # what reentrant checkpointing needs for gradients
        model.gradient_checkpointing_enable(checkpointing)
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = optimizer(parameters)
    first = assert_norms_are_current(model, "before training")

    def closure() -> Tensor:
        model.zero_grad()
        for batch in range(accumulation):
            assert_norms_are_current(model, f"before micro-batch {batch}")
            loss = model(input_ids=tokens(), labels=tokens()).loss / accumulation
            loss.backward()
            assert_norms_are_current(model, f"after micro-batch {batch}")
        return loss.detach()

    for _ in range(STEPS):
        step(closure)
    last = assert_norms_are_current(model, "after training")
    for before, after in zip(first, last, strict=True):
        assert (after / before - 1).abs().max() > 1e-3, "the norms stood still: nothing was tested"

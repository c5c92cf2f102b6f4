"""Whole trainings: fast DoRA follows PEFT's, and the study of bf16 measures what it says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from benchmarks.loss_curves import Curve, Plan, run, train
from benchmarks.mixed_precision import Bf16Products, Survival, stochastic_rounding
from benchmarks.parts.arms import ARMS, PERTURBED, Arm, arithmetic, prepare
from benchmarks.parts.models import parse_dtype
from benchmarks.parts.providers import PEFT_DORA, PEFT_LORA, parameters
from benchmarks.parts.rows import OURS
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.accuracy import FACTOR, assert_as_accurate
from tests.tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan(steps=40, batch=2, length=24, r=4, learning_rate=1e-2, warmup=4, held_out=2)


def tiny(dtype: torch.dtype, device: str) -> nn.Module:
    return tiny_model().to(dtype).to(device)


def texts(plan: Plan) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    sequences = plan.steps * plan.batch + plan.held_out
    return torch.randint(0, 60, (sequences, plan.length), generator=draw)


def losses(arm: Arm, steps: int = PLAN.steps) -> Tensor:
    base = tiny(parse_dtype(arm.dtype), "cpu").requires_grad_(False)
    model = prepare(base, arm, PLAN.r)
    batches = texts(PLAN)[: -PLAN.held_out].view(PLAN.steps, PLAN.batch, PLAN.length)
    optimizer = torch.optim.AdamW(parameters(model), weight_decay=0.0, fused=True)
    curve = Curve([], {})
    with arithmetic(base, arm):
        train(model, batches, PLAN._replace(until=steps), curve, optimizer)
    return torch.tensor(curve.losses, dtype=torch.float64)


def test_fast_dora_follows_pefts_curve() -> None:
    """No further than a few times what one rounding of A does to PEFT's own curve."""
    pefts = losses(Arm(PEFT_DORA, "float32"))
    floor = (losses(Arm(PEFT_DORA, "float32", PERTURBED)) - pefts).abs()
    apart = (losses(Arm(OURS, "float32")) - pefts).abs()
    assert pefts[-4:].mean() < pefts[:4].mean() - 0.1, "nothing was learnt"
    assert floor.max() > 0
    assert apart.max() <= FACTOR * floor.max()
    assert apart.mean() <= FACTOR * floor.mean()


def test_a_bf16_model_starts_where_lora_does_and_pefts_dora_does_not() -> None:
    first = {
        provider: losses(Arm(provider, "bfloat16"), steps=1).item()
        for provider in (PEFT_LORA, PEFT_DORA, OURS)
    }
    assert first[OURS] == first[PEFT_LORA]
    assert first[PEFT_DORA] != first[PEFT_LORA]


def test_emulated_bf16_products_are_as_exact_as_pytorchs() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(s, generator=draw) for s in ((40, 70), (70, 30), (40, 30)))
    products = {
        "mm": lambda a, b, c: a @ b,
        "linear": lambda a, b, c: F.linear(a, b.T.contiguous(), c[0]),
        "addmm": lambda a, b, c: torch.addmm(c, a, b),
        "addmm_": lambda a, b, c: c.clone().addmm_(a, b),
        "bmm": lambda a, b, c: a.view(4, 10, 70) @ b.expand(4, 70, 30),
    }
    for name, product in products.items():
        narrow = [t.bfloat16() for t in (a, b, c)]
        exact = product(*(t.double() for t in narrow))
        with Bf16Products(iter(narrow[1:2])) as mode:  # b as a frozen weight
            emulated = product(*narrow)
        assert mode.products == 1, name
        assert emulated.dtype == torch.bfloat16
        assert_as_accurate(name, emulated, product(*narrow), exact, torch.bfloat16)
        # One rounding is all there is: half an ulp, 2^-8 of the value at most.
        assert ((emulated.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all(), name


def test_emulated_attention_and_its_gradient_are_as_exact_as_pytorchs() -> None:
    draw = torch.Generator().manual_seed(0)
    narrow = [torch.randn(1, 3, 32, 16, generator=draw).bfloat16() for _ in range(4)]

    def attend(query: Tensor, key: Tensor, value: Tensor, weight: Tensor) -> Tensor:
        leaves = [t.detach().requires_grad_() for t in (query, key, value)]
        out = F.scaled_dot_product_attention(*leaves, is_causal=True)
        return torch.cat([out.detach(), *torch.autograd.grad(out, leaves, weight)])

    with Bf16Products() as mode:
        emulated = attend(*narrow)
    assert mode.products == 2
    exact = attend(*(t.double() for t in narrow))
    assert_as_accurate("attention", emulated, attend(*narrow), exact, torch.bfloat16)


@pytest.mark.parametrize(
    ("update", "survives"),
    [(2**-10, 0.0), (2**-7, 1.0), (1.5 * 2**-8, 4 / 3)],
    ids=["swallowed", "on the grid", "rounded up"],
)
def test_survival_of_one_update(update: float, survives: float) -> None:
    """Base results are 1.0, and bf16's next number is 1 + 2^-7."""
    model = one_lora_layer(update)
    probe = Survival(model)
    model(torch.eye(8).bfloat16())
    found = probe.summary()
    assert found["low_rank"] == pytest.approx(survives, abs=1e-6)
    assert found["changed"] == float(survives > 0)
    assert found["size"] == pytest.approx(update, abs=1e-6)


def one_lora_layer(update: float) -> nn.Module:
    layers = nn.Sequential(nn.Linear(8, 8, bias=False, dtype=torch.bfloat16))
    nn.init.ones_(layers[0].weight)
    model = get_peft_model(layers, LoraConfig(r=1, lora_alpha=1, target_modules=["0"]))
    nn.init.ones_(model.base_model.model[0].lora_A["default"].weight)
    nn.init.constant_(model.base_model.model[0].lora_B["default"].weight, update)
    return model


def test_stochastic_rounding_is_right_on_average_and_leaves_exact_values_alone() -> None:
    torch.manual_seed(0)
    y, one = torch.ones(4096, 8).bfloat16(), torch.ones(8)
    stochastic_rounding(y, torch.ones(4096, 1).bfloat16(), torch.zeros(8, 1).bfloat16(), one, None)
    assert (y == 1).all()
    update = torch.full((8, 1), 2.0**-10).bfloat16()
    stochastic_rounding(y, torch.ones(4096, 1).bfloat16(), update, one, None)
    up = (y == 1 + 2**-7).double().mean().item()
    deviation = (1 / 8 * 7 / 8 / y.numel()) ** 0.5
    assert up == pytest.approx(1 / 8, abs=4 * deviation)
    assert ((y == 1) | (y == 1 + 2**-7)).all()


@pytest.mark.parametrize("arm", [ARMS[2], Arm(OURS, "bfloat16")], ids=str)
def test_a_stopped_run_goes_on_where_it_was(arm: Arm, tmp_path: Path) -> None:
    plan = PLAN._replace(steps=6)
    for name, stops in (("straight", (0,)), ("stopped", (3, 0))):
        (tmp_path / name).mkdir()
        for until in stops:
            out = tmp_path / f"{name}.jsonl"
            run(arm, plan._replace(until=until), texts(plan), tmp_path / name, out, tiny)
    straight, stopped = (
        json.loads((tmp_path / f"{name}.jsonl").read_text()) for name in ("straight", "stopped")
    )
    assert len(straight["losses"]) == 6
    for result in ("losses", "survival", "validation", "validation_in_float32"):
        assert stopped[result] == straight[result], result


def test_the_documents_hold_what_was_measured() -> None:
    path = ROOT / "docs" / "make_loss_curves.py"
    spec = importlib.util.spec_from_file_location("make_loss_curves", path)
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    rows, page = make.read(), (ROOT / "docs" / "precision.md").read_text()
    assert make.fill(page, rows) == page, "run: python docs/make_loss_curves.py"
    assert max(make.times_floor(rows)) <= make.BOUND == FACTOR
    assert make.drawing(rows) == (ROOT / "docs" / "loss_curves.svg").read_text()

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from doratune.errors import ModelError
from doratune.recipe import Recipe
from doratune.train.build import build_model
from doratune.train.plan import num_steps, plan_training
from tests.tiny import save_tiny


def recipe(**sections: dict[str, object]) -> Recipe:
    return Recipe.model_validate(
        {"name": "x", "model": {"source": "base"}, "data": {"source": "d.jsonl"}, **sections}
    )


def test_dora_on_all_linear_layers(tiny_base: Path) -> None:
    model, fast = build_model(recipe(), tiny_base)
    assert len(fast.fast) == 14
    assert fast.left_to_peft == {}
    trainable = {
        n.split(".")[-2 if "weight" in n else -1]
        for n, p in model.named_parameters()
        if p.requires_grad
    }
    assert trainable == {"default"}
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.05)


def test_the_seed_decides_the_start(tiny_base: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        model, _ = build_model(recipe().model_copy(update={"seed": seed}), tiny_base)
        return next(p for n, p in model.named_parameters() if "lora_A" in n)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_full_fine_tuning_is_in_float32_unless_told(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", torch.bfloat16)
    model, fast = build_model(recipe(adapter={"method": "full"}), base)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())
    assert fast.fast == []
    model, _ = build_model(
        recipe(adapter={"method": "full"}, model={"source": "b", "dtype": "bfloat16"}), base
    )
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_target_that_matches_nothing(tiny_base: Path) -> None:
    wrong = recipe(adapter={"target_modules": ["q_proj", "v_projj"]})
    with pytest.raises(
        ModelError,
        match=r"'v_projj' matches no linear layer .* Did you mean 'v_proj' \(2 layers\)\?",
    ):
        build_model(wrong, tiny_base)
    with pytest.raises(
        ModelError, match=r"'xyzzy' matches no .* There are down_proj, gate_proj, k_"
    ):
        build_model(recipe(adapter={"target_modules": ["xyzzy"]}), tiny_base)


def test_steps_are_counted_as_the_trainer_does() -> None:
    section = recipe(train={"batch_size": 4, "gradient_accumulation_steps": 3, "epochs": 2.0}).train
    assert num_steps(section, 50) == 2 * 5  # 13 batches, 5 steps an epoch
    assert num_steps(section.model_copy(update={"max_steps": 7}), 50) == 7
    assert num_steps(section.model_copy(update={"epochs": 0.5}), 50) == 3


def test_the_plan_says_what_it_counts(tiny_base: Path) -> None:
    model, _ = build_model(recipe(), tiny_base)
    plan = plan_training(model, recipe(), [10, 20, 30], longest_answer=4)
    assert plan.num_tokens == 60
    assert plan.num_trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert str(plan).startswith("3 optimizer steps over 3 examples (60 tokens an epoch); ")

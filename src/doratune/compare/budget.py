"""What a comparison will spend, said before it starts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from doratune.compare.engine import Engine
from doratune.compare.sweep import ArmPlan
from doratune.recipe import Recipe
from doratune.record.comparison import ARMS
from doratune.record.environment import read_environment
from doratune.record.schemas import DataFile, SplitSummary, Step
from doratune.report.text import duration, memory
from doratune.train.plan import TrainPlan, empty_training_model, plan_training


class ArmCost(NamedTuple):
    """An arm with the plan of one of its final runs."""

    plan: ArmPlan
    train: TrainPlan


def plan_arm(recipe: Recipe, base_path: Path, data: DataFile) -> TrainPlan:
    """The arithmetic of a final run of an arm, without its weights.

    Args:
        recipe: The arm's own.
        base_path: Folder of the base model.
        data: What the data stage found.
    """
    split = data.splits["train"]
    return plan_training(
        empty_training_model(recipe, base_path),
        recipe,
        [split.num_tokens // split.num_examples] * split.num_examples,
        # Labels are short; of open answers it is not known how long they are.
        longest_answer=split.max_tokens if data.labels is None else 0,
        longest=split.max_tokens,
    )


def sweep_steps(plan: ArmPlan) -> int:
    """Optimizer steps of an arm's sweep, if no training fails."""
    return sum(n * plan.rung_steps(rung) for rung, n in enumerate(plan.rung_sizes()))


def total_steps(plan: ArmPlan) -> int:
    """Optimizer steps of an arm."""
    return sweep_steps(plan) + len(plan.seeds) * plan.num_steps


def num_trainings(plan: ArmPlan) -> int:
    """Trainings of an arm."""
    return sum(plan.rung_sizes()) + len(plan.seeds)


def describe_budget(
    costs: Sequence[ArmCost],
    recipe: Recipe,
    data: DataFile,
    engine: Engine,
    step_seconds: float | None,
) -> str:
    """What will be done and what it takes, in a few lines."""
    plans = [cost.plan for cost in costs]
    in_sweep = sum(sum(plan.rung_sizes()) for plan in plans)
    final = sum(len(plan.seeds) for plan in plans)
    steps = sum(map(total_steps, plans))
    first = plans[0]
    rungs = ", ".join(
        f"{size} of {first.rung_steps(rung)} steps" for rung, size in enumerate(first.rung_sizes())
    )
    test = data.splits["test"].num_examples
    lines = [
        f"{_count(len(plans), 'arm')} ({', '.join(ARMS[plan.arm] for plan in plans)}), "
        f"{_count(in_sweep + final, 'training')}: "
        + (f"{in_sweep} in the sweep (each arm {rungs}) and " if in_sweep else "")
        + f"{final} final ({_count(len(first.seeds), 'seed')}, {first.num_steps} steps each)",
        f"{steps:,} optimizer steps, about {steps * _tokens_per_step(recipe, data):,.0f} tokens; "
        f"{final + 1} models answer {test:,} test questions",
        _time(steps, step_seconds, engine.workers),
        _memory(costs, engine),
    ]
    lines += _sizes(costs)
    return "\n".join(lines)


def measured_step_seconds(files: Iterable[Path]) -> float | None:
    """Median time of an optimizer step in earlier trainings of the same kind; None without any."""
    seconds = [step.seconds for file in files for step in Step.read_lines(file)]
    return statistics.median(seconds) if seconds else None


def _tokens_per_step(recipe: Recipe, data: DataFile) -> float:
    split: SplitSummary = data.splits["train"]
    mean = split.num_tokens / split.num_examples
    return mean * recipe.train.batch_size * recipe.train.gradient_accumulation_steps


def _time(steps: int, step_seconds: float | None, workers: int) -> str:
    if step_seconds is None:
        return "Time: unknown until the first training has measured a step; questions come on top"
    return (
        f"Time: about {duration(steps * step_seconds / workers)} of training, at {step_seconds:.2g} s a "
        "step (measured in earlier trainings of this folder); questions come on top"
    )


def _memory(costs: Sequence[ArmCost], engine: Engine) -> str:
    largest = max(cost.train.memory_bytes for cost in costs)
    text = f"Memory: up to {memory(largest)} a job, {engine.description}"
    total = read_environment().memory_bytes
    if not torch.cuda.is_available() and largest * engine.workers > total:
        text += (
            f", {memory(largest * engine.workers)} in all. This machine has {memory(total)}: "
            "lower compare.workers"
        )
    return text


def _sizes(costs: Sequence[ArmCost]) -> list[str]:
    """How near LoRA at DoRA's budget comes to it."""
    sizes = {cost.plan.arm: cost.train.num_trainable for cost in costs}
    if not {"dora", "lora-budget"} <= sizes.keys():
        return []
    difference = sizes["lora-budget"] - sizes["dora"]
    return [
        f"LoRA at DoRA's budget trains {sizes['lora-budget']:,} parameters, DoRA {sizes['dora']:,}: "
        f"{difference:+,} ({difference / sizes['dora']:+.3%})"
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

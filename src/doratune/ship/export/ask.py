"""What the forms of a trained model answer on the test split, and how their cards tell it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from doratune.record.export import TaskCost
from doratune.ship.export.subject import Subject
from doratune.ship.task import Task, task_cost


def ask_form(subject: Subject, what: str, load: Callable[[], Any]) -> tuple[TaskCost, ...]:
    """What a form of the trained model costs; nothing where the test split is not to be asked.

    Args:
        subject: The trained run.
        what: The form, such as ``plain LoRA``.
        load: Loads it.
    """
    if subject.task is None:
        return ()
    before = trained_answers(subject, subject.task)
    after = subject.task.ask(load(), f"Asking {what}")
    gc.collect()
    return (task_cost(what, before, after),)


def trained_answers(subject: Subject, task: Task) -> list[bool]:
    """Which questions the trained model of a run answers right."""
    return task.trained(subject.base_path, subject.run.adapter, subject.recipe.model.dtype)


def task_sentence(cost: TaskCost) -> str:
    """A cost for the model card."""
    return (
        f"Right answers on the test split: {cost.num_right} of {cost.num_examples} with the trained "
        f"model, {cost.num_right_approximate} with {cost.what} ({cost.num_lost} lost, "
        f"{cost.num_gained} gained)."
    )

"""Right answers on the test split: what a form of the model costs where it is used."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from doratune.adapter.tuned import load_tuned
from doratune.data.questions import Questions
from doratune.record.export import TaskCost

Ask = Callable[[Any, str], list[bool]]
"""A model and a title for the progress bar to which questions it answers right."""


class Task:
    """The test questions, and what the trained model answers to them."""

    def __init__(self, questions: Questions, ask: Ask) -> None:
        """Args: questions: Of the test split; ask: Asks a model of transformers or PEFT."""
        self.questions, self.ask = questions, ask
        self._trained: list[bool] | None = None

    def trained(self, base_path: Path, adapter: Path, dtype: str) -> list[bool]:
        """Which questions base and adapter answer right, as trained; asked once for all forms."""
        if self._trained is None:
            sidecar = load_tuned(base_path, adapter, dtype)
            self._trained = self.ask(sidecar, "Asking the trained model")
            del sidecar
            gc.collect()  # PEFT's models hold themselves
        return self._trained


def task_cost(what: str, before: Sequence[bool], after: Sequence[bool]) -> TaskCost:
    """Counts question by question.

    Args:
        what: The form, such as ``plain LoRA``.
        before: Which questions the trained model answers right.
        after: The same of the form.
    """
    pairs = list(zip(before, after, strict=True))
    return TaskCost(
        what=what,
        num_examples=len(pairs),
        num_right=sum(before),
        num_right_approximate=sum(after),
        num_lost=sum(was and not now for was, now in pairs),
        num_gained=sum(now and not was for was, now in pairs),
    )

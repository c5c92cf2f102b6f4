"""One line of ``steps.jsonl`` per optimizer step."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn
from transformers import TrainerCallback

from doratune.adapter import layer_states
from doratune.errors import DivergedError
from doratune.ops import BaseWeight
from doratune.record.schemas import Step


class StepLog(TrainerCallback):
    """Appends what each step did, as it happens, and moves the progress bar.

    When training is resumed, the lines after the checkpoint are dropped first: those steps are made
    again.
    """

    def __init__(self, path: Path, resumed_step: int, progress: Progress, num_steps: int) -> None:
        self.path = path
        self.progress = progress
        self.task = progress.add_task("Training", total=num_steps, completed=resumed_step, note="")
        kept = [s for s in Step.read_lines(path) if s.step <= resumed_step]
        self.tokens_before = kept[-1].num_tokens if kept else 0
        path.write_text("".join(s.model_dump_json() + "\n" for s in kept))
        self.bases: dict[str, BaseWeight] = {}
        self.started = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self.started = time.monotonic()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Writes the line; Trainer calls this after every optimizer step."""
        if not logs or "loss" not in logs:
            return
        seconds = time.monotonic() - self.started
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise DivergedError(
                f"The loss is {loss} at step {state.global_step}: training diverged. Lower "
                "train.learning_rate (2e-4 is usual), or use float32 weights (model.dtype)."
            )
        change = mean_change(kwargs["model"], self.bases)
        step = Step(
            step=state.global_step,
            epoch=float(logs["epoch"]),
            loss=loss,
            learning_rate=float(logs["learning_rate"]),
            num_tokens=self.tokens_before + int(logs["num_tokens"]),
            grad_norm=float(logs["grad_norm"]) if "grad_norm" in logs else None,
            magnitude_change=change[0] if change else None,
            direction_change=change[1] if change else None,
            seconds=seconds,
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(step.model_dump_json() + "\n")
        self.progress.update(self.task, completed=step.step, note=f"loss {loss:.3f}")


def mean_change(model: nn.Module, bases: dict[str, BaseWeight]) -> tuple[float, float] | None:
    """Mean magnitude and direction change over all output features; None without an adapter."""
    states = list(layer_states(model, bases=bases))
    if not states:
        return None
    magnitude = torch.cat([s.magnitude_change for s in states]).mean()
    direction = torch.cat([s.direction_change for s in states]).mean()
    return magnitude.item(), direction.item()

"""One line of ``epochs.jsonl`` per epoch: what training does to task, calibration and other texts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.progress import Progress
from transformers import TrainerCallback

from doratune.record.evaluation import EpochFigures
from doratune.train.validation import Validation


class EpochLog(TrainerCallback):
    """Measures the model before the first step, after each epoch and at the end.

    When training is resumed, the lines after the checkpoint are dropped first: those epochs end
    again.
    """

    def __init__(
        self, path: Path, resumed_step: int, progress: Progress, validation: Validation
    ) -> None:
        self.path, self.progress, self.validation = path, progress, validation
        lines = EpochFigures.read_lines(path) if resumed_step else []  # or of another training
        kept = [line for line in lines if line.step <= resumed_step]
        self.last_step = kept[-1].step if kept else -1
        path.write_text("".join(line.model_dump_json() + "\n" for line in kept))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures the start, or an epoch that had ended when training was interrupted."""
        if (state.epoch or 0.0) % 1 == 0:
            self._measure(state, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures the epoch; Trainer calls this also where training ends within one."""
        self._measure(state, kwargs["model"])

    def _measure(self, state: Any, model: Any) -> None:
        if state.global_step <= self.last_step:
            return
        self.last_step = state.global_step
        epoch = state.epoch or 0.0
        task = self.progress.add_task(f"Validating epoch {epoch:g}", total=None, note="")
        started = time.monotonic()
        figures = self.validation.figures(model)
        self.progress.remove_task(task)
        line = EpochFigures(
            epoch=epoch,
            step=state.global_step,
            metrics=figures,
            num_examples=self.validation.num_examples,
            seconds=time.monotonic() - started,
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")

"""One job of a comparison, in a process of its own: ``python -m doratune.compare.job FOLDER``.

The process ends when its standard input does: a comparison that is killed leaves no jobs behind.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path

from doratune.errors import DivergedError
from doratune.recipe import Recipe, load_recipe
from doratune.recipe.start import start_run
from doratune.record.comparison import JobFile, JobRecord
from doratune.record.files import write_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import TrainFile

JOB = "job.json"
CHANGES = "changes.jsonl"


def run_job(run: RunFolder) -> JobRecord:
    """Does a prepared job, from where an earlier process was stopped, and writes ``job.json``.

    Whatever goes wrong is the outcome of the job.
    """
    file = JobFile.read(run.path / JOB)
    started = time.monotonic()
    figures: dict[str, object]
    try:
        recipe = load_recipe(run.recipe)
        with run.locked():
            start_run(run, recipe)
            figures = {"status": "done", **_work(run, recipe, file.job)}
    except Exception as error:
        traceback.print_exc()
        figures = {
            "status": "failed",
            "error": str(error) or type(error).__name__,
            "diverged": isinstance(error, DivergedError),
            "seconds": time.monotonic() - started,
        }
    job = file.job.model_copy(update=figures)
    file.model_copy(update={"job": job}).write(run.path / JOB)
    if job.status == "done" and (job.stage == "sweep" or recipe.compare.keep == "figures"):
        shutil.rmtree(run.adapter, ignore_errors=True)
    return job


def _work(run: RunFolder, recipe: Recipe, job: JobRecord) -> dict[str, object]:
    """Trains and answers; returns the figures of the job's record."""
    from doratune.compare.answers import answer_test, share_right

    if job.arm == "base":
        answers = answer_test(run, recipe, "base")
        return {"test_metric": share_right(answers.samples), "seconds": answers.seconds}

    from doratune.train import train_model

    train_model(run, recipe)
    train = TrainFile.read(run.train)
    figures: dict[str, object] = {
        "validation_loss": train.validation_loss,
        "seconds": train.seconds,
        "peak_memory_bytes": train.peak_memory_bytes,
    }
    if job.stage == "final":
        figures["test_metric"] = share_right(answer_test(run, recipe, "tuned").samples)
        _write_changes(run, recipe, job)
    return figures


def _write_changes(run: RunFolder, recipe: Recipe, job: JobRecord) -> None:
    """What training did to every matrix, before the adapter goes."""
    from doratune.base import resolve_base
    from doratune.compare.change import matrix_changes

    base = resolve_base(recipe.model.source, recipe.model.revision)
    rows = matrix_changes(run, base, job.arm, job.seed)
    write_jsonl(run.path / CHANGES, [row.model_dump() for row in rows])


def _end_with_input() -> None:
    """Ends this process once nobody holds the other end of its standard input."""
    # Not sys.stdin: its lock, held by this thread, would abort the process when it ends by itself.
    while os.read(0, 4096):
        pass
    os._exit(130)


def main(folder: str) -> int:
    """Does the job of a folder; its exit code says whether it was done."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    return 0 if run_job(RunFolder(Path(folder))).status == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

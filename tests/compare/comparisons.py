"""Small comparisons: a recipe, its data stage, and an engine that works in this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from doratune.compare.job import run_job
from doratune.data import prepare_data
from doratune.recipe import Recipe
from doratune.recipe.start import start_run
from doratune.record.run_folder import RunFolder
from tests.tiny import clauses_file

SECTIONS: dict[str, dict[str, object]] = {
    "data": {"validation_share": 0.2, "test_share": 0.2},
    "adapter": {"r": 4, "lora_alpha": 8},
    "train": {"max_steps": 8, "batch_size": 4, "learning_rate": 5e-3},
    "compare": {"learning_rates": [2e-3, 1e-2], "seeds": 2},
}


def recipe(folder: Path, base: Path, **sections: dict[str, object]) -> Recipe:
    data = clauses_file(folder)
    keys = {*SECTIONS, *sections}
    merged = {key: {**SECTIONS.get(key, {}), **sections.get(key, {})} for key in keys}
    merged["data"] = {"source": str(data), **merged["data"]}
    return Recipe.model_validate({"name": "tiny", "model": {"source": str(base)}, **merged})


def prepared(folder: Path, settings: Recipe) -> RunFolder:
    run = RunFolder(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    start_run(run, settings)
    prepare_data(run, settings)
    return run


class InlineEngine:
    """Does each job at once, in this process."""

    workers = 1
    description = "one after the other"

    def __init__(self, before: Callable[[str], int | None] = lambda name: None) -> None:
        """Args: before: Given the folder of a job; an exit code is that of a process that died."""
        self.before, self.done = before, list[str]()

    def submit(self, folder: Path) -> Future[int]:
        name = "/".join(folder.parts[folder.parts.index("compare") + 1 :])
        self.done.append(name)
        future: Future[int] = Future()
        code = self.before(name)
        if code is None:
            code = 0 if run_job(RunFolder(folder)).status == "done" else 1
        future.set_result(code)
        return future

    def stop(self) -> None:
        pass

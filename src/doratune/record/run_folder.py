"""The run folder as the stages see it: where things are, what is up to date, and who may write."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from doratune.errors import StorageError
from doratune.record.files import digest_path
from doratune.record.schemas import RecordFile, Split, StageEntry


class RunFolder:
    """Paths and bookkeeping of one run folder.

    A stage reads files of the folder, writes files into it, and is *up to date* while the digests
    of its inputs and of what it wrote are those noted in ``record.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.environment = path / "environment.json"
        self.record = path / "record.json"
        self.data = path / "data.json"
        self.dropped = path / "data" / "dropped.jsonl"
        self.review_sample = path / "data" / "review.jsonl"
        self.verdicts = path / "data" / "review.verdicts.jsonl"
        self.review = path / "review.json"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.steps = path / "steps.jsonl"
        self.train = path / "train.json"
        self.eval = path / "eval"
        self.epochs = path / "epochs.jsonl"
        self.benchmarks = path / "benchmarks.json"
        self.benchmark_samples = path / "benchmarks.samples.jsonl"
        self.benchmark_texts = path / "benchmarks.texts.jsonl"
        self.completions = path / "completions"
        self.latency = path / "latency.json"
        self.compare = path / "compare.json"
        self.jobs = path / "compare"
        self.merged = path / "merged"
        self.merge = path / "merge.json"
        self.verify = path / "verify.json"
        self.export = path / "export"
        self.exported = path / "export.json"
        self.forms = path / "forms.json"
        self.served = path / "served.json"
        self.report = path / "report.html"
        self.compare_report = path / "compare.html"

    def examples(self, split: Split) -> Path:
        """The examples of one split."""
        return self.path / "data" / f"{split}.jsonl"

    def eval_file(self, task: str) -> Path:
        """The figures of one evaluation task."""
        return self.eval / f"{task}.json"

    def eval_files(self) -> list[Path]:
        """The figures of all evaluation tasks, by name; other files there have a dot in their stem."""
        return sorted(path for path in self.eval.glob("*.json") if "." not in path.stem)

    def samples(self, task: str) -> Path:
        """What the models answered in one evaluation task."""
        return self.eval / f"{task}.samples.jsonl"

    def answers(self, task: str) -> Path:
        """How those answers were had."""
        return self.eval / f"{task}.answers.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; the lock dies with the process.

        Raises:
            StorageError: Another process works in the folder, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise StorageError(f"The run folder {self.path} cannot be made: {error}.") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"Another doratune command is working in {self.path}. "
                    "Wait for it, or give this run another name."
                ) from None
            yield

    def is_current(self, stage: str, inputs: Mapping[str, str]) -> bool:
        """Whether ``stage`` finished from these inputs and its files are as it left them."""
        if not self.record.exists():
            return False
        entry = RecordFile.read(self.record).stages.get(stage)
        return (
            entry is not None
            and entry.inputs == dict(inputs)
            and all(
                (self.path / name).exists() and digest_path(self.path / name) == digest
                for name, digest in entry.outputs.items()
            )
        )

    def made_from(self, stage: str) -> dict[str, str]:
        """Digests of what a stage was made from when it last finished; empty where it did not."""
        entry = RecordFile.read(self.record).stages.get(stage) if self.record.exists() else None
        return {} if entry is None else dict(entry.inputs)

    def run_stage(
        self,
        stage: str,
        inputs: Mapping[str, str],
        outputs: list[Path],
        work: Callable[[], None],
    ) -> bool:
        """Does ``work`` unless the stage is up to date, and notes it in ``record.json``.

        Args:
            stage: Name of the stage.
            inputs: Digest of each thing the outcome depends on.
            outputs: Files and folders that ``work`` writes.
            work: Writes the outputs.

        Returns:
            Whether anything was done.
        """
        if self.is_current(stage, inputs):
            return False
        self._note(stage, None)
        started_at, started = utc_now(), time.monotonic()
        work()
        self._note(
            stage,
            StageEntry(
                inputs=dict(inputs),
                outputs={os.fspath(p.relative_to(self.path)): digest_path(p) for p in outputs},
                started_at=started_at,
                finished_at=utc_now(),
                seconds=time.monotonic() - started,
            ),
        )
        return True

    def _note(self, stage: str, entry: StageEntry | None) -> None:
        record = RecordFile.read(self.record)
        record.stages.pop(stage, None)
        if entry is not None:
            record.stages[stage] = entry
        record.write(self.record)


def utc_now() -> str:
    """The time, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")

"""What the models have answered so far, on the disk: an interrupted run goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from doratune.errors import StorageError
from doratune.record.benchmarks import BenchmarkSample, TextSample
from doratune.record.evaluation import Model
from doratune.record.files import append_lines, write_jsonl, write_text
from doratune.record.run_folder import RunFolder

S = TypeVar("S", BenchmarkSample, TextSample)


class Kept:
    """Answers of the models that are still the same, by what they were asked.

    Args:
        run: Whose samples these are.
        models: Digest of each model. What another model answered is forgotten.

    Raises:
        StorageError: A file cannot be written.
    """

    def __init__(self, run: RunFolder, models: Mapping[Model, str]) -> None:
        self.run = run
        mark = run.path / ".benchmarks.json"
        noted = json.loads(mark.read_text()) if mark.exists() else {}
        same = {model for model, digest in models.items() if noted.get(model) == digest}
        self._answers = {
            _key(sample): sample
            for sample in _readable(BenchmarkSample, run.benchmark_samples)
            if sample.model in same
        }
        self._texts = {
            _text_key(sample): sample
            for sample in _readable(TextSample, run.benchmark_texts)
            if sample.model in same
        }
        write_jsonl(run.benchmark_samples, [s.model_dump() for s in self._answers.values()])
        write_jsonl(run.benchmark_texts, [s.model_dump() for s in self._texts.values()])
        write_text(mark, json.dumps(models))

    def answer(
        self, model: Model, benchmark: str, subject: str, number: int, digest: str
    ) -> BenchmarkSample | None:
        """What a model answered to a question, if it was asked exactly this."""
        return self._answers.get((model, benchmark, subject, number, digest))

    def text(self, model: Model, place: str, digest: str) -> TextSample | None:
        """What a model made of a text."""
        return self._texts.get((model, place, digest))

    def add(self, samples: Sequence[BenchmarkSample]) -> None:
        """Keeps further answers."""
        self._answers.update((_key(sample), sample) for sample in samples)
        append_lines(self.run.benchmark_samples, [s.model_dump_json() for s in samples])

    def add_texts(self, samples: Sequence[TextSample]) -> None:
        """Keeps further texts."""
        self._texts.update((_text_key(sample), sample) for sample in samples)
        append_lines(self.run.benchmark_texts, [s.model_dump_json() for s in samples])


def _key(sample: BenchmarkSample) -> tuple[Model, str, str, int, str]:
    return sample.model, sample.benchmark, sample.subject, sample.question, sample.digest


def _text_key(sample: TextSample) -> tuple[Model, str, str]:
    return sample.model, sample.place, sample.digest


def _readable(kind: type[S], path: Path) -> list[S]:
    try:
        return kind.read_lines(path)
    except StorageError:  # of another version of doratune: asked again
        return []

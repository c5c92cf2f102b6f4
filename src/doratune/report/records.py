"""Everything the report reads from a run folder; what is not there is None or empty."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeVar

from doratune.errors import StorageError
from doratune.recipe.load import parse_recipe
from doratune.recipe.schema import Recipe
from doratune.record.benchmarks import BenchmarksFile
from doratune.record.comparison import CompareFile
from doratune.record.completions import JudgeFile
from doratune.record.evaluation import EpochFigures, EvalFile, Sample
from doratune.record.export import ExportFile
from doratune.record.files import digest_file
from doratune.record.latency import LatencyFile
from doratune.record.review import ReviewFile, ReviewItem
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import (
    ORIGIN,
    AdapterOrigin,
    DataFile,
    Environment,
    Example,
    MergeFile,
    RecordFile,
    RunFile,
    Step,
    TrainFile,
    VerifyFile,
)
from doratune.record.verification import FormsFile, ServedFile

FileT = TypeVar("FileT", bound=RunFile)


class Evaluation(NamedTuple):
    """One task: its figures, what the models answered, and what they were asked."""

    file: EvalFile
    samples: list[Sample]
    examples: dict[str, Example]
    """By id."""


class Records(NamedTuple):
    """The records of one run."""

    name: str
    recipe_text: str | None
    recipe: Recipe | None
    record: RecordFile | None
    environment: Environment | None
    data: DataFile | None
    review: ReviewFile | None
    """Of the sample that the folder holds; a review of an earlier one is none."""
    train: TrainFile | None
    steps: list[Step]
    origin: AdapterOrigin | None
    evaluations: list[Evaluation]
    """The recipe's own task first, others by name."""
    epochs: list[EpochFigures]
    benchmarks: BenchmarksFile | None
    completions: list[ReviewItem]
    completions_review: ReviewFile | None
    """Of the completions that the folder holds."""
    judge: JudgeFile | None
    latency: LatencyFile | None
    compare: CompareFile | None
    merge: MergeFile | None
    verify: VerifyFile | None
    exported: ExportFile | None
    forms: FormsFile | None
    """The exported folders, checked."""
    served: ServedFile | None

    @property
    def method(self) -> str | None:
        """What was trained, or is to be."""
        if self.train:
            return self.train.method
        return self.recipe.adapter.method if self.recipe else None


def read_records(run: RunFolder) -> Records:
    """Reads a run folder.

    Raises:
        StorageError: A record that is there does not fit its schema.
        ConfigError: ``recipe.yaml`` does not fit the schema.
    """
    text = _read_text(run.recipe)
    recipe = parse_recipe(text, str(run.recipe)) if text is not None else None
    record = _read(RecordFile, run.record)
    own = recipe.eval.task if recipe else None
    files = sorted(run.eval_files(), key=lambda path: path.stem != own)
    return Records(
        name=record.name if record else run.path.name,
        recipe_text=text,
        recipe=recipe,
        record=record,
        environment=_read(Environment, run.environment),
        data=_read(DataFile, run.data),
        review=_read_review(run.review_sample, run.review),
        train=_read(TrainFile, run.train),
        steps=Step.read_lines(run.steps),
        origin=_read(AdapterOrigin, run.adapter / ORIGIN),
        evaluations=[_read_evaluation(run, EvalFile.read(path)) for path in files],
        epochs=EpochFigures.read_lines(run.epochs),
        benchmarks=_read(BenchmarksFile, run.benchmarks),
        completions=ReviewItem.read_lines(run.completions / "review.jsonl"),
        completions_review=_read_review(
            run.completions / "review.jsonl", run.completions / "review.json"
        ),
        judge=_read(JudgeFile, run.completions / "judge.json"),
        latency=_read(LatencyFile, run.latency),
        compare=_read(CompareFile, run.compare),
        merge=_read(MergeFile, run.merge),
        verify=_read(VerifyFile, run.verify),
        exported=_read(ExportFile, run.exported),
        forms=_read(FormsFile, run.forms),
        served=_read(ServedFile, run.served),
    )


def _read_evaluation(run: RunFolder, file: EvalFile) -> Evaluation:
    examples = Example.read_lines(run.examples(file.split))
    return Evaluation(
        file, Sample.read_lines(run.samples(file.task)), {row.id: row for row in examples}
    )


def _read_review(items: Path, outcome: Path) -> ReviewFile | None:
    review = _read(ReviewFile, outcome)
    if review and items.exists():
        return review if digest_file(items) == review.sample_digest else None
    return None


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error


def _read(schema: type[FileT], path: Path) -> FileT | None:
    return schema.read(path) if path.exists() else None

"""A trained run on the tiny base, as the stages before leave it."""

from __future__ import annotations

import shutil
from pathlib import Path

from doratune.adapter.origin import file_digests, read_origin
from doratune.base import fingerprint
from doratune.recipe.schema import Recipe
from doratune.record.evaluation import Difference, EvalFile, Interval, ModelFigures
from doratune.record.export import Form
from doratune.record.files import write_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import (
    ORIGIN,
    DataFile,
    Example,
    Message,
    RecordFile,
    SourceRecord,
    SplitSummary,
)
from doratune.ship.export.model_card import CARD, write_cards
from doratune.ship.export.subject import Subject, Written
from doratune.ship.task import Task
from tests.ship.adapters import save_adapter


def recipe_for(base: Path, **sections: dict[str, object]) -> Recipe:
    model = {"source": str(base), **sections.pop("model", {})}
    data = {"source": "t.jsonl", **sections.pop("data", {})}
    verify = {"num_prompts": 2}
    return Recipe(name="tiny", model=model, data=data, verify=verify, **sections)


def trained_run(path: Path, adapter: Path, num_examples: int = 3) -> RunFolder:
    """Some test examples and an adapter."""
    run = RunFolder(path)
    shutil.copytree(adapter, run.adapter)
    RecordFile(name="tiny", recipe_digest="0", seed=0).write(run.record)
    examples = [
        Example(
            id=f"{number:016x}",
            messages=[
                Message(role="user", content=f"Is clause {number} capped?"),
                Message(role="assistant", content="uncapped"),
            ],
            place=f"t.jsonl:{number}",
        )
        for number in range(1, num_examples + 1)
    ]
    write_jsonl(run.examples("test"), [example.model_dump() for example in examples])
    return run


def subject_of(
    run: RunFolder, recipe: Recipe, method: str = "dora", task: Task | None = None
) -> Subject:
    base = Path(recipe.model.source)
    return Subject(run, recipe, base, fingerprint(base), method, task)  # type: ignore[arg-type]


def card_of(subject: Subject, form: Form, folder: Path, written: Written) -> str:
    """The model card of a form whose files lie in ``folder``, on one line."""
    write_cards(subject, form, folder, written.findings)
    return " ".join((folder / CARD).read_text().split())


def write_figures(
    run: RunFolder, recipe: Recipe, accuracy: float = 0.9, of_data: bool = True
) -> None:
    """Figures of an evaluation, and ``data.json`` of a hub dataset."""

    def interval(value: float) -> Interval:
        return Interval(value=value, low=value - 0.1, high=value + 0.05, n=80, method="Wilson")

    def figures(value: float) -> ModelFigures:
        return ModelFigures(metrics={"accuracy": interval(value)}, seconds=1.0)

    EvalFile(
        task=recipe.eval.task,
        kind="labels",
        primary="accuracy",
        split="test",
        num_examples=80,
        labels=["capped", "uncapped"],
        base=figures(0.25),
        tuned=figures(accuracy),
        differences={"accuracy": Difference(value=interval(accuracy - 0.25), p_value=0.01)},
    ).write(run.eval_file(recipe.eval.task))
    if not of_data:
        return
    summary = SplitSummary(
        num_examples=1234, num_tokens=9, max_tokens=3, digest="d", ordered_digest="o"
    )
    DataFile(
        sources=[SourceRecord(path="org/clauses", kind="hub", weight=1.0, num_rows=1, digest="x")],
        format="classification",
        format_reason="",
        digest="d",
        ordered_digest="o",
        labels=["capped", "uncapped"],
        splits={"train": summary},
    ).write(run.data)


def seal(adapter: Path) -> Path:
    """Brings the record in the adapter's folder up to date with its files, as training leaves it."""
    origin = read_origin(adapter)
    if origin is not None:
        origin.model_copy(update={"files": file_digests(adapter)}).write(adapter / ORIGIN)
    return adapter


def sealed_adapter(base: Path, path: Path, **config: object) -> Path:
    """A random adapter with its record."""
    return seal(save_adapter(base, path, **config))

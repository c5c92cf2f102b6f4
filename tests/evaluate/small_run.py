"""A run folder as data and training leave it, with a few test examples and a real adapter."""

from __future__ import annotations

from pathlib import Path

from doratune.recipe.schema import Recipe
from doratune.record.files import digest_json, write_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, Example, Message, RecordFile, SplitSummary
from tests.tiny import save_moved_adapter

LABELS = ["capped", "excluded", "uncapped"]


def small_run(path: Path, base: Path) -> RunFolder:
    """A folder with a DoRA adapter that changes every answer, written by PEFT itself."""
    run = RunFolder(path)
    run.path.mkdir()
    RecordFile(name="run", recipe_digest="", seed=0).write(run.record)
    save_moved_adapter(run.adapter, base, seed=0, std=0.3, spread=0.05)
    return run


def small_recipe(base: Path, data: dict[str, object] | None = None, **evaluation: object) -> Recipe:
    """Only what matters here is not the default."""
    return Recipe.model_validate(
        {
            "name": "run",
            "model": {"source": str(base)},
            "data": {"source": "t.jsonl", "max_length": 64, **(data or {})},
            "eval": {"batch_size": 4, **evaluation},
        }
    )


def conversations(number: int, labelled: bool = False) -> list[Example]:
    """Questions of different lengths."""
    return [
        Example(
            id=f"{i:016x}",
            messages=[
                Message(role="user", content=f"Clause {i}: {'liability ' * (i % 4)}?"),
                Message(role="assistant", content=LABELS[i % 3]),
            ],
            label=LABELS[i % 3] if labelled else None,
            place=f"t.jsonl:{i + 1}",
        )
        for i in range(number)
    ]


def texts(number: int) -> list[Example]:
    """Plain texts."""
    return [
        Example(
            id=f"{i:016x}",
            messages=[Message(role="assistant", content=f"The quick brown fox jumps {i} times.")],
            place=f"t.txt:{i + 1}",
        )
        for i in range(number)
    ]


def write_data(run: RunFolder, examples: list[Example], form: str = "chat") -> None:
    """Writes the examples as the test split, and one of them as the train split."""
    labels = LABELS if any(example.label for example in examples) else None
    summaries = {}
    for split, rows in (("train", conversations(1)), ("test", examples)):
        dumped = [example.model_dump() for example in rows]
        write_jsonl(run.path / "data" / f"{split}.jsonl", dumped)
        summaries[split] = SplitSummary(
            num_examples=len(rows),
            num_tokens=100,
            max_tokens=50,
            digest=digest_json(dumped),
            ordered_digest=digest_json(dumped),
        )
    DataFile(
        sources=[],
        format=form,
        format_reason="stated in the recipe",
        digest=digest_json(sorted(summary.digest for summary in summaries.values())),
        ordered_digest="0",
        labels=labels,
        splits=summaries,
    ).write(run.data)

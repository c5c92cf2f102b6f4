"""Prepares data of all kinds in a run folder, and looks at what became of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from doratune.data import prepare_data, read_examples
from doratune.recipe.schema import Recipe
from doratune.record.files import read_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import SPLITS, DataFile, GateReport, RecordFile


class Prepared:
    """A run folder whose data stage can be run with any settings.

    Args:
        folder: Where sources and the run folder are.
        base: A tiny checkpoint.
    """

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self.base = base
        self.run = RunFolder(folder / "run")
        RecordFile(name="run", recipe_digest="", seed=0).write(self.run.record)

    def write(self, name: str, rows: list[Any]) -> str:
        """Writes JSON Lines; a string is a line as it is."""
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = self.folder / name
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return str(path)

    def __call__(self, source: Any, *, seed: int = 0, workers: int = 1, **data: Any) -> DataFile:
        """Runs the stage; ``source`` may be rows."""
        if isinstance(source, list) and not (source and "path" in source[0]):
            source = self.write("a.jsonl", source)
        values = {
            "name": "run",
            "seed": seed,
            "model": {"source": str(self.base)},
            "data": {"source": source, **data},
        }
        prepare_data(self.run, Recipe.model_validate(values), workers)
        return DataFile.read(self.run.data)

    def gate(self, name: str) -> GateReport:
        """What a gate reported."""
        (report,) = [r for r in DataFile.read(self.run.data).gates if r.gate == name]
        return report

    def dropped(self) -> list[dict[str, Any]]:
        """The rows that were left out, places without folders."""
        rows = read_jsonl(self.run.dropped)
        return [{**row, "place": Path(row["place"]).name} for row in rows]

    def places(self, *splits: str) -> Counter[str]:
        """How often each place stands in the splits (all of them, unless some are named)."""
        return Counter(
            Path(example.place).name
            for split in SPLITS
            if split in (splits or SPLITS)
            for example in read_examples(self.run, split)
        )


def question(number: int, **changes: Any) -> dict[str, Any]:
    """An instruction example that no gate minds, unlike any other in its words."""
    words = " ".join(f"{word}{number}" for word in ("alpha", "beta", "gamma", "delta", "omega"))
    return {
        "instruction": f"What is the meaning of {words} in number {number}?",
        "output": f"Number {number} stands for {words}, which is all there is to say about it.",
        **changes,
    }

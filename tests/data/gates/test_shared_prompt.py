"""What all examples share, a system prompt or a template, makes them neither near copies nor leaks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from doratune.data import prepare_data
from doratune.recipe.schema import DataSection, ModelSection, Recipe
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, GateReport, RecordFile

PROMPT = " ".join(f"Rule {n}: a question of kind {n} is answered in manner {n}." for n in range(30))


def words(rng: random.Random, number: int) -> str:
    return " ".join(f"w{rng.randrange(3000)}" for _ in range(number))


def chat(asked: str, answer: str) -> dict[str, Any]:
    turns = {"system": PROMPT, "user": asked, "assistant": answer}
    return {"messages": [{"role": role, "content": said} for role, said in turns.items()]}


def alpaca(asked: str, answer: str) -> dict[str, Any]:
    template = "Please read the text below with care, think about it, and write down the last word"
    return {"instruction": f"{template} of it: {asked}", "output": answer}


@pytest.mark.parametrize("row", [chat, alpaca])
def test_examples_that_share_a_prompt_are_different_examples(
    row: Any, tiny_base: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)
    rows = [row(words(rng, 20), words(rng, 20)) for _ in range(150)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = RunFolder(tmp_path / "run")
    RecordFile(name="run", recipe_digest="", seed=0).write(run.record)
    section = DataSection(source=str(source), max_length=2048)
    prepare_data(run, Recipe(name="run", model=ModelSection(source=str(tiny_base)), data=section))
    found: dict[str, GateReport] = {gate.gate: gate for gate in DataFile.read(run.data).gates}
    for gate in ("near_duplicates", "leakage"):
        assert found[gate].num_checked > 100
        assert found[gate].num_found == 0, gate

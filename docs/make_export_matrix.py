"""Writes the figures of docs/export_matrix.md: how every way out of training keeps the trained model.

    DORATUNE_LLAMA_PYTHON=... python docs/make_export_matrix.py FOLDER RUNS [SOURCE...]

FOLDER holds legal/cuad_clauses.{train,test}.jsonl.gz; RUNS takes the runs, about 10 GB, and a second
call goes on from them. The variable names a Python with llama-cpp-python. DoRA is trained four times on
the same examples, over the base in float32, bfloat16, 4 bits (NF4) and 8 bits, or what SOURCE names, and
each adapter takes every exit. About a quarter of an hour each on two cores.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from doratune.record.export import ExportFile
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import TaskCost, VerifyFile
from doratune.record.verification import FormsFile

RECIPE = Path(__file__).resolve().parents[1] / "examples" / "compare_cuad.yaml"
SOURCES: dict[str, dict[str, str]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "NF4": {"dtype": "float32", "quantize": "nf4"},
    "8-bit": {"dtype": "float32", "quantize": "int8"},
}
LEARNING_RATE = 4.5e-3
"""The best of the A/B on the same data."""
NUM_TRAIN, NUM_TEST = 128, 80
FORMS = "peft,lora,merged,quantized,gguf"


class Row(NamedTuple):
    """One exit of one source."""

    exit: str
    figures: Any
    """With mean_abs_difference, mean_kl and top1_agreement; None where it was not compared."""
    task: TaskCost | None


def main() -> None:
    folder, runs = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    runs.mkdir(parents=True, exist_ok=True)
    page = Path(__file__).with_name("export_matrix.md")
    before, start, rest = page.read_text().partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- /figures -->")
    lines = [
        "| trained over | exit | mean difference of logits | mean KL, nats | same top token | "
        "right answers | lost, gained |",
        "|---|---|---|---|---|---|---|",
    ]
    for source in sys.argv[3:] or SOURCES:
        lines += table(source, run_of(source, folder, runs))
    page.write_text(before + start + "\n".join(lines) + "\n" + end + after)


def run_of(source: str, folder: Path, runs: Path) -> RunFolder:
    """Trains over a base and takes every exit, as far as that is not done yet."""
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["name"] = f"matrix-{source.lower()}"
    recipe["model"] = {"source": recipe["model"]["source"], **SOURCES[source]}
    for key in ("source", "test_source"):
        recipe["data"][key] = str(folder / recipe["data"][key].removeprefix("data/"))
    recipe["data"]["max_examples"] = {"train": NUM_TRAIN, "validation": 16, "test": NUM_TEST}
    recipe["train"]["learning_rate"] = LEARNING_RATE
    recipe["export"] = {"gguf_types": ["f16", "q8_0"], "quantized_types": ["int8", "nf4"]}
    if "quantize" in recipe["model"]:
        recipe["merge"] = {"onto": "dequantized"}
    del recipe["compare"]
    file = runs / f"{recipe['name']}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    for command in (
        ["data"], ["train"], ["merge"], ["verify", "--accuracy"],
        ["export", "--to", FORMS, "--accuracy"], ["verify", "--accuracy"],  # the exported forms too
    ):  # fmt: skip
        print(source, *command, flush=True)
        doratune = [sys.executable, "-m", "doratune", command[0], str(file), *command[1:]]
        subprocess.run([*doratune, "--runs", str(runs)], check=True)
    return RunFolder(runs / recipe["name"])


def table(source: str, run: RunFolder) -> Iterator[str]:
    """The rows of one source."""
    rows = list(exits(run))
    asked = next(row.task for row in rows if row.task is not None)
    yield (
        f"| {source} | sidecar, the reference | 0 | 0 | 100 % | "
        f"{asked.num_right} of {asked.num_examples} | |"
    )
    for row in rows:
        figures, task = row.figures, row.task
        logits = "| | | "
        if figures is not None:
            logits = (
                f"| {figures.mean_abs_difference:.1e} | {figures.mean_kl:.1e} | "
                f"{figures.top1_agreement:.2%} "
            )
        answers = "| | "
        if task is not None:
            answers = (
                f"| {task.num_right_approximate} of {task.num_examples} | "
                f"{task.num_lost}, {task.num_gained} "
            )
        yield f"| {source} | {row.exit} {logits}{answers}|"


def exits(run: RunFolder) -> Iterator[Row]:
    """Everything that left a run, against base and adapter as trained."""
    verify, forms = VerifyFile.read(run.verify), ExportFile.read(run.exported).forms
    checks = {check.form: check for check in FormsFile.read(run.forms).checks.values()}
    if verify.fidelity:
        for onto, found in verify.fidelity.items():
            yield Row(f"merged onto the base, {onto}", found, found.task)
    else:
        [task] = forms["merged"].tasks
        yield Row(f"merged, {verify.dtype}", verify, task)
    for form in ("peft", "lora", "quantized", "gguf"):
        record = forms[form]
        if form in checks and checks[form].not_run:
            yield Row("PEFT's own layers, not on a CPU", None, None)
            continue
        logits = list(record.logits) or [checks[form].logits]
        for figures, task in zip(logits, record.tasks, strict=True):
            yield Row(task.what, figures, task)


if __name__ == "__main__":
    main()

"""Small benchmarks on the disk, in the forms that a recipe takes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

SUBJECTS = ("anatomy", "astronomy", "virology")
SIZES = {"anatomy": 7, "astronomy": 4, "virology": 2}
WORDS = ["liability", "fox", "fees", "dog", "fraud", "agreement", "supplier", "injury", "months"]


def question(subject: str, number: int) -> dict[str, Any]:
    """One question, the same whenever it is asked for."""
    at = sum(map(ord, subject)) + 7 * number
    words = [WORDS[(at + step * (number + 1)) % len(WORDS)] for step in range(4)]
    return {
        "subject": subject,
        "question": f" Which {WORDS[at % 9]} is number {number} in {subject}? ",
        "choices": [f"{word} {place}" for place, word in enumerate(words)],
        "answer": at % 4,
    }


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes JSON Lines, compressed where the name says so."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_mmlu(folder: Path) -> Path:
    """Three subjects of 7, 4 and 2 questions, with five worked examples each."""
    folder.mkdir(exist_ok=True)
    dev = [question(subject, 100 + number) for subject in SUBJECTS for number in range(5)]
    test = [question(subject, n) for subject in SUBJECTS for n in range(SIZES[subject])]
    write_lines(folder / "dev.jsonl", dev)
    write_lines(folder / "test.jsonl.gz", test[::-1])
    return folder


COMMONSENSE = {
    "boolq": ("true", "false"),
    "piqa": ("solution1", "solution2"),
    "social_i_qa": ("answer1", "answer2", "answer3"),
    "hellaswag": ("ending1", "ending2", "ending3", "ending4"),
    "winogrande": ("option1", "option2"),
    "ARC-Easy": ("answer1", "answer2", "answer3", "answer4"),
    "ARC-Challenge": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "openbookqa": ("answer1", "answer2", "answer3", "answer4"),
}


def write_commonsense(folder: Path, num_questions: int = 3) -> Path:
    """All eight tasks, in the form of LLM-Adapters."""
    folder.mkdir(exist_ok=True)
    for task, answers in COMMONSENSE.items():
        rows = []
        for number in range(num_questions):
            answer = answers[number % len(answers)]
            rows.append(
                {
                    "instruction": f"Please choose: {WORDS[number]} of {task}?\n\n"
                    f"Answer format: {'/'.join(answers)}",
                    "input": "",
                    "output": f"the correct answer is {answer}",
                    "answer": answer,
                }
            )
        write_lines(folder / f"{task}.test.jsonl.gz", rows)
    return folder

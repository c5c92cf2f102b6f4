"""The eight commonsense tasks of the DoRA paper as lm-eval tasks, with its prompts and both scorings.

The questions are those of LLM-Adapters (Hu et al. 2023), which the paper uses: an instruction that
names its answers, ``Answer format: answer1/answer2/answer3``, and the right one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from doratune.data.render.spoken import ALPACA_PROMPT
from doratune.errors import DataError
from doratune.evaluate.benchmarks.local_data import dataset, fetch, read_file

GENERATED = "commonsense"
LIKELIHOOD = "commonsense_likelihood"

TASKS = {
    "boolq": ("true", "false"),
    "piqa": ("solution1", "solution2"),
    "social_i_qa": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "hellaswag": ("ending1", "ending2", "ending3", "ending4"),
    "winogrande": ("option1", "option2"),
    "ARC-Easy": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "ARC-Challenge": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "openbookqa": ("answer1", "answer2", "answer3", "answer4", "answer5"),
}
"""Tasks in the paper's order, and the words that are looked for in a generated answer."""

_SOURCE = (
    "https://raw.githubusercontent.com/AGI-Edgerunners/LLM-Adapters/"
    "816657208af4db747803f87ba40a4c71383fed7a/dataset/{task}/test.json"
)
_ANSWER = "the correct answer is {}"
"""How the paper's training data answers."""
_MAX_NEW_TOKENS = 32


def extract_answer(task: str, text: str) -> str | None:
    """The first of the task's answers that a generated text names; None where it names none.

    Args:
        task: One of `TASKS`.
        text: What the model wrote.
    """
    found = re.search("|".join(TASKS[task]), text)
    return found.group() if found else None


def answers(instruction: str) -> list[str]:
    """The answers that an instruction allows.

    Raises:
        DataError: It names none.
    """
    _, found, form = instruction.rpartition("Answer format: ")
    if not found:
        raise DataError(
            f"The commonsense question {instruction[:60]!r} does not say 'Answer format: …'; "
            "expected the questions of LLM-Adapters."
        )
    return form.strip().split("/")


def commonsense_task(task: str, scoring: str, data: Path | None) -> ConfigurableTask:
    """One of the tasks for lm-eval.

    Args:
        task: One of `TASKS`.
        scoring: `GENERATED`, where the answer is looked for in what the model writes, or `LIKELIHOOD`.
        data: Folder with ``<task>.test.jsonl.gz``; None for LLM-Adapters' own file.

    Raises:
        DataError: The questions cannot be had, or are not of the expected form.
    """
    rows = _rows(task, data)

    def custom_dataset(**kwargs: Any) -> Any:
        return dataset({"test": rows})

    def process_generated(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
        return {"acc": float(extract_answer(task, results[0]) == doc["answer"])}

    config: dict[str, Any] = {
        "task": f"{scoring}_{task}",
        "custom_dataset": custom_dataset,
        "test_split": "test",
        "doc_to_text": _prompt,
        "target_delimiter": "",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    if scoring == GENERATED:
        config |= {
            "output_type": "generate_until",
            "doc_to_target": "answer",
            # Greedy; the paper's code searches with four beams.
            "generation_kwargs": {"do_sample": False, "max_gen_toks": _MAX_NEW_TOKENS, "until": []},
            "process_results": process_generated,
        }
    else:
        config |= {
            "output_type": "multiple_choice",
            "doc_to_choice": _choices,
            "doc_to_target": _right,
        }
    return ConfigurableTask(config=config)


def _prompt(doc: dict[str, Any]) -> str:
    return ALPACA_PROMPT.replace("{instruction}", doc["instruction"])


def _choices(doc: dict[str, Any]) -> list[str]:
    return [_ANSWER.format(answer) for answer in answers(doc["instruction"])]


def _right(doc: dict[str, Any]) -> int:
    return answers(doc["instruction"]).index(doc["answer"])


def _rows(task: str, data: Path | None) -> list[dict[str, Any]]:
    place = _SOURCE.format(task=task) if data is None else str(data)
    rows = fetch(place) if data is None else read_file(data, f"{task}.test")
    for number, row in enumerate(rows, 1):
        if row.get("answer") not in answers(str(row.get("instruction"))):
            raise DataError(
                f"Question {number} of {task} in {place} has the answer {row.get('answer')!r}, which "
                "is none of those it names."
            )
    return rows

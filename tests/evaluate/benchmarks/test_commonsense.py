from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from doratune.data.render.renderer import Renderer
from doratune.errors import DataError
from doratune.evaluate.benchmarks import commonsense
from doratune.evaluate.benchmarks.commonsense import (
    GENERATED,
    LIKELIHOOD,
    TASKS,
    answers,
    commonsense_task,
    extract_answer,
)
from doratune.evaluate.benchmarks.language_model import BatchedLM
from doratune.record.schemas import Message
from tests.evaluate.benchmarks.exams import COMMONSENSE, write_commonsense, write_lines
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("task", "text", "found"),
    [
        ("boolq", "the correct answer is true", "true"),
        ("boolq", "It is false. Not true.", "false"),
        ("boolq", "True", None),  # as in the paper's code, letters count as they are
        ("piqa", "solution2 rather than solution1", "solution2"),
        ("piqa", "solution3", None),
        ("social_i_qa", "the correct answer is answer3", "answer3"),
        ("openbookqa", "answer12", "answer1"),
        ("hellaswag", "\nending4", "ending4"),
        ("hellaswag", "answer4", None),
        ("winogrande", "the correct answer is option1\noption2", "option1"),
        ("ARC-Challenge", "answer5", "answer5"),
        ("ARC-Easy", "", None),
    ],
)
def test_the_first_answer_named_counts(task: str, text: str, found: str | None) -> None:
    assert extract_answer(task, text) == found


@pytest.mark.parametrize("scoring", [GENERATED, LIKELIHOOD])
@pytest.mark.parametrize("task", TASKS)
def test_the_prompt_is_that_of_training(task: str, scoring: str, tmp_path: Path) -> None:
    data = write_commonsense(tmp_path / "data")
    lm_eval_task = commonsense_task(task, scoring, data)
    lm_eval_task.build_all_requests()
    tokenizer = tiny_tokenizer()
    lm = BatchedLM(tiny_model(), tokenizer, 2)
    renderer = Renderer(tokenizer, "alpaca")
    for doc in lm_eval_task.task_docs:
        requests = [r for r in lm_eval_task.instances if r.doc == doc]
        user = Message(role="user", content=doc["instruction"])
        assert len(requests) == (1 if scoring == GENERATED else len(COMMONSENSE[task]))
        if scoring == GENERATED:
            assert lm.tok_encode(requests[0].args[0]) == renderer.prompt([user])
            continue
        right = requests[COMMONSENSE[task].index(doc["answer"])]
        assert "".join(right.args).endswith(doc["output"])
        (pair,) = lm.pairs([right])
        expected = renderer.prompt([user]) + renderer.answer([user], doc["output"])[:-1]
        assert [*pair[0], *pair[1]] == expected


def test_the_prompt_is_the_published_one(tmp_path: Path) -> None:
    task = commonsense_task("boolq", GENERATED, write_commonsense(tmp_path / "data"))
    assert task.doc_to_text(task.task_docs[0]) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request. \n\n### Instruction:\nPlease choose: liability of boolq?\n\n"
        "Answer format: true/false\n\n### Response:\n"
    )


@pytest.mark.parametrize("task", TASKS)
def test_generated_answers_are_judged(task: str, tmp_path: Path) -> None:
    lm_eval_task = commonsense_task(task, GENERATED, write_commonsense(tmp_path / "data"))
    doc = lm_eval_task.task_docs[1]
    assert lm_eval_task.process_results(doc, [f"I say {doc['answer']}"]) == {"acc": 1.0}
    assert lm_eval_task.process_results(doc, [f"{COMMONSENSE[task][0]}, {doc['answer']}"]) == {
        "acc": 0.0
    }
    assert lm_eval_task.process_results(doc, ["nothing"]) == {"acc": 0.0}


@pytest.mark.parametrize("task", TASKS)
def test_the_real_questions_are_understood(task: str, shared_data: Path) -> None:
    path = shared_data / "commonsense" / f"{task}.test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(300), strict=False)]
    for row in rows:
        assert row["answer"] in answers(row["instruction"])
        assert set(answers(row["instruction"])) <= set(TASKS[task])
        assert extract_answer(task, row["output"]) == row["answer"]


def test_a_question_without_answers_is_refused(tmp_path: Path) -> None:
    rows = [{"instruction": "What now?", "input": "", "output": "x", "answer": "x"}]
    write_lines(tmp_path / "piqa.test.jsonl", rows)
    with pytest.raises(DataError, match=r"question 'What now\?' does not say 'Answer format"):
        commonsense_task("piqa", GENERATED, tmp_path)


def test_an_answer_that_is_none_of_them_is_refused(tmp_path: Path) -> None:
    rows = [{"instruction": "Q\n\nAnswer format: a/b", "output": "c", "answer": "c"}]
    write_lines(tmp_path / "piqa.test.jsonl", rows)
    with pytest.raises(
        DataError, match=r"Question 1 of piqa in .* has the answer 'c', which is none"
    ):
        commonsense_task("piqa", LIKELIHOOD, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither piqa.test.jsonl.gz nor piqa.test.jsonl"):
        commonsense_task("piqa", GENERATED, tmp_path)


def test_without_files_and_network_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commonsense, "_SOURCE", str(tmp_path / "{task}.json"))
    with pytest.raises(DataError, match=r"boolq.json cannot be had: .* Check the network, or put"):
        commonsense_task("boolq", GENERATED, None)


def test_the_published_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collection's own files are one JSON list each."""
    monkeypatch.setattr(commonsense, "_SOURCE", str(tmp_path / "{task}.json"))
    rows = [{"instruction": "Q\n\nAnswer format: true/false", "output": "", "answer": "true"}]
    (tmp_path / "boolq.json").write_text(json.dumps(rows, indent=4))
    assert len(commonsense_task("boolq", GENERATED, None).task_docs) == 1

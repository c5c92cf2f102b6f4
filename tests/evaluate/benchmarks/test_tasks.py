from __future__ import annotations

from pathlib import Path

import lm_eval
import pytest
import yaml

from doratune.errors import ConfigError, DataError
from doratune.evaluate.benchmarks.questions import ask_for
from doratune.evaluate.benchmarks.tasks import Benchmark, load_benchmarks
from doratune.recipe.evaluation import BenchmarksSection
from tests.evaluate.benchmarks.exams import (
    SUBJECTS,
    question,
    write_commonsense,
    write_lines,
    write_mmlu,
)

MMLU = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmarks")
    write_mmlu(path)
    return write_commonsense(path)


def load(folder: Path | None, *tasks: str, **settings: object) -> list[Benchmark]:
    data = None if folder is None else str(folder)
    return load_benchmarks(BenchmarksSection(tasks=list(tasks), data=data, **settings))


def published_prompt(subject: str, number: int, num_fewshot: int = 5) -> str:
    """By hand, from the words of lm-eval's own task files."""
    about = yaml.safe_load((MMLU / f"mmlu_{subject}.yaml").read_text())["description"]

    def asked(number: int) -> str:
        row = question(subject, number)
        choices = "".join(
            f"\n{letter}. {c}" for letter, c in zip("ABCD", row["choices"], strict=True)
        )
        return f"{row['question'].strip()}{choices}\nAnswer:"

    shots = [
        f"{asked(100 + n)} {'ABCD'[question(subject, 100 + n)['answer']]}\n\n"
        for n in range(num_fewshot)
    ]
    return about + "".join(shots) + asked(number)


@pytest.mark.parametrize("num_fewshot", [None, 0, 2])
def test_mmlu_asks_what_lm_eval_asks(folder: Path, num_fewshot: int | None) -> None:
    (mmlu,) = load(folder, "mmlu", num_fewshot=num_fewshot)
    shots = 5 if num_fewshot is None else num_fewshot
    assert (mmlu.metric, mmlu.num_fewshot, mmlu.average) == ("acc", shots, "questions")
    assert list(mmlu.subjects) == list(SUBJECTS)
    asked = ask_for(mmlu, None, 0)
    assert len(asked) == 7 + 4 + 2
    for one in asked:
        row = mmlu.subjects[one.subject].task_docs[one.number]
        number = next(n for n in range(9) if question(one.subject, n) == row)
        prompt = published_prompt(one.subject, number, shots)
        assert [r.args for r in one.requests] == [(prompt, f" {letter}") for letter in "ABCD"]


def test_requests_are_those_that_lm_eval_builds(folder: Path) -> None:
    for name in ("mmlu_astronomy", "commonsense_piqa", "commonsense_likelihood_piqa"):
        (ours,) = load(folder, name)
        (theirs,) = load(folder, name)
        asked = ask_for(ours, None, 0)
        (task,) = theirs.subjects.values()
        task.build_all_requests()
        assert [r.args for one in asked for r in one.requests] == [r.args for r in task.instances]
        assert [r.doc_id for one in asked for r in one.requests] == [
            r.doc_id for r in task.instances
        ]


def test_one_subject_alone(folder: Path) -> None:
    (anatomy,) = load(folder, "mmlu_anatomy")
    assert anatomy.name == "mmlu_anatomy"
    assert len(ask_for(anatomy, None, 0)) == 7


def test_commonsense_is_the_mean_over_its_tasks(folder: Path) -> None:
    generated, scored = load(folder, "commonsense", "commonsense_likelihood")
    for benchmark in (generated, scored):
        assert list(benchmark.subjects) == [
            "boolq",
            "piqa",
            "social_i_qa",
            "hellaswag",
            "winogrande",
            "ARC-Easy",
            "ARC-Challenge",
            "openbookqa",
        ]
        assert (benchmark.average, benchmark.metric) == ("subjects", "acc")
        assert benchmark.num_fewshot == 0
    assert {one.request_type for one in ask_for(generated, 16, 0)} == {"generate_until"}
    assert {one.request_type for one in ask_for(scored, 16, 0)} == {"loglikelihood"}


def test_worked_examples_are_left_out_where_a_task_says_none(folder: Path) -> None:
    (piqa,) = load(folder, "commonsense_piqa", num_fewshot=3)
    assert piqa.num_fewshot == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mmlu", "mmlu"], r"has 'mmlu' more than once"),
        (["commonsence"], r"'commonsence', which lm-eval does not know. Did you mean 'commonsense"),
        (["mmlu_anatmy"], r"'mmlu_anatmy', which lm-eval does not know. Did you mean 'mmlu_anat"),
    ],
    ids=["twice", "ours", "lm-eval"],
)
@pytest.mark.slow  # lm-eval reads all its task files first
def test_wrong_names(folder: Path, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(folder, *names)


def test_more_worked_examples_than_there_are(folder: Path) -> None:
    message = r"num_fewshot is 6, but 'mmlu' has 5 worked examples to choose from"
    with pytest.raises(ConfigError, match=message):
        load(folder, "mmlu", num_fewshot=6)


@pytest.mark.slow
def test_a_task_of_the_hub_without_network(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"The task 'arc_easy' cannot be loaded: .*Check the network"
    ):
        load(folder, "arc_easy")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder '.*nowhere' \(eval.benchmarks.data\)"):
        load(tmp_path / "nowhere", "mmlu")


def test_a_subject_that_mmlu_has_not(tmp_path: Path) -> None:
    row = question("anatomy", 1) | {"subject": "astrology"}
    for split in ("dev", "test"):
        write_lines(tmp_path / f"{split}.jsonl", [row])
    with pytest.raises(DataError, match="has the subject 'astrology', which MMLU has not"):
        load(tmp_path, "mmlu")


def test_a_subject_without_worked_examples(tmp_path: Path) -> None:
    write_lines(tmp_path / "dev.jsonl", [question("virology", 1)])
    write_lines(tmp_path / "test.jsonl", [question("anatomy", 1)])
    with pytest.raises(DataError, match=r"has no worked examples \(dev\) of 'anatomy'"):
        load(tmp_path, "mmlu")


@pytest.mark.parametrize(
    "change", [{"answer": 4}, {"answer": "B"}, {"choices": ["a", "b"]}, {"subject": None}]
)
def test_a_row_that_is_no_question(tmp_path: Path, change: dict[str, object]) -> None:
    write_lines(tmp_path / "dev.jsonl", [question("anatomy", 1)])
    write_lines(tmp_path / "test.jsonl", [question("anatomy", 1), question("anatomy", 2) | change])
    with pytest.raises(DataError, match=r"Row 2 of test in .* is no question of MMLU"):
        load(tmp_path, "mmlu")


def test_what_cannot_be_compared_question_by_question(folder: Path) -> None:
    from doratune.evaluate.benchmarks import tasks

    (benchmark,) = load(folder, "commonsense_piqa")
    (task,) = benchmark.subjects.values()
    for change, message in (
        ({"UNSAFE_CODE": True}, "'x' runs code that a model has written"),
        ({"MULTIMODAL": True}, "'x' has images or sounds"),
        ({"OUTPUT_TYPE": "loglikelihood_rolling"}, "'x' measures perplexity and has no right"),
    ):
        changed = type("Changed", (type(task),), change).__new__(type("C", (type(task),), change))
        with pytest.raises(ConfigError, match=message):
            tasks._refuse_strange("x", changed)
    with pytest.raises(ConfigError, match="'x' is a task of its own kind"):
        tasks._refuse_strange("x", object())
    task._aggregation_list = {"f1": None}
    with pytest.raises(ConfigError, match=r"'commonsense_piqa' has the metrics \['f1'\]"):
        tasks._metric(benchmark)

"""What a recipe names as tasks, as lm-eval's task objects."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lm_eval.tasks
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager

from doratune.errors import ConfigError, DataError
from doratune.evaluate.benchmarks import commonsense
from doratune.evaluate.benchmarks.local_data import dataset, find_file, read_file
from doratune.recipe.evaluation import BenchmarksSection

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what its own task files say

_MMLU_DATA = "cais/mmlu"
_MMLU_FEWSHOT = 5
"""lm-eval's own files leave it open; five is what MMLU's authors and all its tables use."""
_METRICS = ("acc_norm", "acc", "exact_match")
"""The first of these that a task has is the one compared."""
_COMMONSENSE = {
    **{f"{commonsense.GENERATED}_{task}": (commonsense.GENERATED, task) for task in commonsense.TASKS},
    **{f"{commonsense.LIKELIHOOD}_{task}": (commonsense.LIKELIHOOD, task) for task in commonsense.TASKS},
}  # fmt: skip


class Benchmark(NamedTuple):
    """One benchmark and the subjects it consists of."""

    name: str
    subjects: dict[str, ConfigurableTask]
    average: Literal["questions", "subjects"]
    """Over what its figure is averaged."""
    metric: str
    num_fewshot: int
    version: str


def load_benchmarks(settings: BenchmarksSection) -> list[Benchmark]:
    """Loads all tasks that a recipe names, and their questions.

    Raises:
        ConfigError: A name is unknown, or the task cannot be compared question by question.
        DataError: Its questions cannot be had.
    """
    data = None if settings.data is None else Path(settings.data).expanduser()
    if data is not None and not data.is_dir():
        raise DataError(
            f"There is no folder {settings.data!r} (eval.benchmarks.data). Paths are relative to the "
            "current directory."
        )
    found = [one for name in settings.tasks for one in _load(name, data)]
    names = [benchmark.name for benchmark in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"eval.benchmarks.tasks has {', '.join(map(repr, twice))} more than once."
        )
    return [_checked(benchmark, settings) for benchmark in found]


def _load(name: str, data: Path | None) -> Iterator[Benchmark]:
    """The benchmarks of one name, without their settings."""
    if name in (commonsense.GENERATED, commonsense.LIKELIHOOD):
        tasks = {t: commonsense.commonsense_task(t, name, data) for t in commonsense.TASKS}
        yield _benchmark(name, tasks, "subjects")
    elif name in _COMMONSENSE:
        scoring, task = _COMMONSENSE[name]
        yield _benchmark(name, {task: commonsense.commonsense_task(task, scoring, data)})
    elif data is not None and name.startswith("mmlu") and (tasks := _local_mmlu(name, data)):
        yield _benchmark(name, tasks)
    else:
        yield from _from_lm_eval(name)


def _benchmark(
    name: str,
    tasks: dict[str, ConfigurableTask],
    average: Literal["questions", "subjects"] = "questions",
) -> Benchmark:
    return Benchmark(name, tasks, average, metric="", num_fewshot=0, version="")


def _local_mmlu(name: str, data: Path) -> dict[str, ConfigurableTask]:
    """MMLU or one subject of it with questions from files ``dev`` and ``test``, prompts by lm-eval.

    Returns:
        The tasks by subject; none where the folder has no such questions.

    Raises:
        DataError: A file is missing, or a row of it is no question.
    """
    if find_file(data, "test") is None:
        return {}
    dev, test = _by_subject(data, "dev"), _by_subject(data, "test")
    wanted = [subject for subject in sorted(test) if name in ("mmlu", f"mmlu_{subject}")]
    members = []
    for subject in wanted:
        if f"mmlu_{subject}" not in _mmlu_manager().task_index:
            raise DataError(f"{str(data)!r} has the subject {subject!r}, which MMLU has not.")
        if subject not in dev:
            raise DataError(f"{str(data)!r} has no worked examples (dev) of {subject!r}.")
        splits = {"dev": dev[subject], "test": test[subject]}
        members.append({"task": f"mmlu_{subject}", "custom_dataset": _giving(splits)})
    if not members:
        return {}
    # A group is the one place where lm-eval takes changes to tasks that it has by name.
    tasks = _mmlu_manager().load([{"group": "local_mmlu", "task": members}])["tasks"]
    return {subject: tasks[f"mmlu_{subject}"] for subject in wanted}


def _giving(splits: dict[str, list[dict[str, Any]]]) -> Callable[..., Any]:
    return lambda **kwargs: dataset(splits)


def _by_subject(data: Path, split: str) -> dict[str, list[dict[str, Any]]]:
    subjects: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(read_file(data, split), 1):
        choices, answer = row.get("choices"), row.get("answer")
        good = isinstance(choices, list) and len(choices) == 4 and answer in range(4)
        if not good or not isinstance(row.get("subject"), str) or "question" not in row:
            raise DataError(
                f"Row {number} of {split} in {str(data)!r} is no question of MMLU: expected subject, "
                f"question, four choices and the answer's index, found {sorted(row)} with the answer "
                f"{answer!r}."
            )
        subjects.setdefault(row["subject"], []).append(row)
    return subjects


def _from_lm_eval(name: str) -> Iterator[Benchmark]:
    """A task, a group as one benchmark, or a tag or group without an average as several."""
    manager = _manager()
    if name not in manager.task_index:
        known = [*manager.all_tasks, commonsense.GENERATED, commonsense.LIKELIHOOD, *_COMMONSENSE]
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigError(f"eval.benchmarks.tasks has {name!r}, which lm-eval does not know.{hint}")
    try:
        loaded = manager.load([name])
    except Exception as error:  # whatever the hub, a task's own code or its files raise
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(
            f"The task {name!r} cannot be loaded: {type(error).__name__}: {first}. Check the network; "
            "'mmlu' and 'commonsense' also take files (eval.benchmarks.data)."
        ) from error
    group = loaded["groups"].get(name)
    if group is not None and group.has_aggregation:
        yield _benchmark(name, _by_alias(loaded["tasks"]), _average(group))
    else:
        for own, task in loaded["tasks"].items():
            yield _benchmark(own, {own: task})


def _by_alias(tasks: dict[str, Any]) -> dict[str, ConfigurableTask]:
    """Tasks by their short names, where these tell them apart."""
    named = {task.config.task_alias or name: task for name, task in tasks.items()}
    return named if len(named) == len(tasks) else tasks


def _average(group: Group) -> Literal["questions", "subjects"]:
    weighted = all(metric.weight_by_size for metric in group.aggregate_metric_list or [])
    return "questions" if weighted else "subjects"


@cache
def _manager() -> TaskManager:
    """Knows all of lm-eval's tasks, after ten seconds of reading their files."""
    return TaskManager()


@cache
def _mmlu_manager() -> TaskManager:
    folder = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"
    return TaskManager(include_path=folder, include_defaults=False)


def _checked(benchmark: Benchmark, settings: BenchmarksSection) -> Benchmark:
    """With number of worked examples and metric set.

    Raises:
        ConfigError: The benchmark cannot be compared question by question.
    """
    for task in benchmark.subjects.values():
        _refuse_strange(benchmark.name, task)
        own, asked = task.config.num_fewshot, settings.num_fewshot
        is_mmlu = task.config.dataset_path == _MMLU_DATA
        usual = own if own is not None else _MMLU_FEWSHOT if is_mmlu else 0
        # As in lm-eval, a task that says 0 is not asked otherwise.
        task.set_config("num_fewshot", usual if asked is None or own == 0 else asked)
        if task.config.num_fewshot > (available := len(task.fewshot_docs())):
            raise ConfigError(
                f"eval.benchmarks.num_fewshot is {task.config.num_fewshot}, but {benchmark.name!r} has "
                f"{available} worked examples to choose from. Take fewer."
            )
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    first = next(iter(benchmark.subjects.values()))
    return benchmark._replace(
        metric=_metric(benchmark),
        num_fewshot=first.config.num_fewshot,
        version=str(first.VERSION),
    )


def _refuse_strange(name: str, task: Any) -> None:
    if not isinstance(task, ConfigurableTask):
        raise ConfigError(f"{name!r} is a task of its own kind, which is not supported.")
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            f"{name!r} runs code that a model has written, which doratune does not do. Leave it out "
            "of eval.benchmarks.tasks."
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"{name!r} has images or sounds; only text can be asked. Leave it out.")
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        raise ConfigError(
            f"{name!r} measures perplexity and has no right answers; name its texts as "
            "eval.benchmarks.texts instead."
        )


def _metric(benchmark: Benchmark) -> str:
    """The metric that all subjects have."""
    common = set.intersection(*(set(task.aggregation()) for task in benchmark.subjects.values()))
    for metric in _METRICS:
        if metric in common:
            return metric
    raise ConfigError(
        f"{benchmark.name!r} has the metrics {sorted(map(str, common))}; base and tuned are compared "
        f"by one that counts right answers ({', '.join(_METRICS)}). Leave it out of "
        "eval.benchmarks.tasks."
    )

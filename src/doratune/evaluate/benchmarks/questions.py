"""Which questions of a benchmark are asked, and how a model's responses are judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.utils import handle_non_serializable

from doratune.data.questions import lowest
from doratune.errors import DataError
from doratune.evaluate.benchmarks.tasks import Benchmark
from doratune.record.benchmarks import BenchmarkSample
from doratune.record.evaluation import Model
from doratune.record.files import digest_bytes, digest_json


@dataclass(frozen=True)
class Question:
    """One question as the models are asked it."""

    benchmark: str
    subject: str
    number: int
    """In lm-eval's task."""
    doc: dict[str, Any]
    requests: list[Instance]
    """One for each choice, or one for the whole answer."""
    digest: str
    """Of the requests."""

    @property
    def request_type(self) -> str:
        """lm-eval's name of what answers it: ``loglikelihood`` or ``generate_until``."""
        return str(self.requests[0].request_type)


def ask_for(benchmark: Benchmark, max_questions: int | None, seed: int) -> list[Question]:
    """The questions that are asked, subject by subject.

    Prompts are made in lm-eval's order, so that examples that a task draws are those it would draw for
    the same questions.

    Args:
        benchmark: With its settings.
        max_questions: How many of the benchmark at most; all when None.
        seed: Decides which.
    """
    sizes = {subject: len(task.task_docs) for subject, task in benchmark.subjects.items()}
    shares = allot(sizes, max_questions, even=benchmark.average == "subjects")
    questions = []
    for subject, task in benchmark.subjects.items():
        for number in _chosen(task, shares[subject], seed):
            doc = task.task_docs[number]
            requests = _requests(task, doc, number)
            asked = [list(request.args) for request in requests]
            questions.append(
                Question(benchmark.name, subject, number, doc, requests, digest_json(asked))
            )
    return questions


def num_available(benchmark: Benchmark) -> int:
    """Questions of the whole benchmark."""
    return sum(len(task.task_docs) for task in benchmark.subjects.values())


def allot(sizes: dict[str, int], most: int | None, *, even: bool) -> dict[str, int]:
    """How many questions each subject gives: in proportion to its size, or equally many.

    Args:
        sizes: Questions by subject.
        most: Questions in all; no limit when None.
        even: Equally many, as far as a subject has them.
    """
    total = sum(sizes.values())
    if most is None or most >= total:
        return dict(sizes)
    given = dict.fromkeys(sizes, 0)
    weights = {subject: 1.0 if even else size / total for subject, size in sizes.items()}
    # One after the other to the subject that lacks most of its share (Webster's method), which keeps
    # a smaller subset a part of every larger one.
    for _ in range(most):
        open_ = [subject for subject in sizes if given[subject] < sizes[subject]]
        given[max(open_, key=lambda s: weights[s] / (2 * given[s] + 1))] += 1
    return given


def _chosen(task: ConfigurableTask, share: int, seed: int) -> list[int]:
    """Numbers of the questions, ascending: those whose hash with the seed is smallest."""
    docs = task.task_docs
    if share == len(docs):
        return list(range(share))
    keys = [digest_bytes(f"{seed}:{_as_json(doc)}".encode()) for doc in docs]
    return lowest(keys, share)


def _as_json(doc: dict[str, Any]) -> str:
    return json.dumps(doc, default=handle_non_serializable, ensure_ascii=False, sort_keys=True)


def _requests(task: ConfigurableTask, doc: dict[str, Any], number: int) -> list[Instance]:
    """What lm-eval's own ``build_all_requests`` makes of a question, without its progress bars."""
    context = task.fewshot_context(
        doc, num_fewshot=task.config.num_fewshot, gen_prefix=task.doc_to_prefix(doc)
    )
    made = task.construct_requests(
        doc, context, metadata=(task.config.task, number, task.config.repeats)
    )
    return made if isinstance(made, list) else [made]


def judged(
    benchmark: Benchmark, question: Question, responses: Sequence[Any], model: Model
) -> BenchmarkSample:
    """What lm-eval's task says of a model's responses.

    Args:
        benchmark: That the question is of.
        question: What was asked.
        responses: One for each of its requests: likelihood and whether it is greedy, or a text.
        model: Who gave them.

    Raises:
        DataError: The metric is not 0 or 1 for this question.
    """
    task = benchmark.subjects[question.subject]
    for request, response in zip(question.requests, responses, strict=True):
        request.resps = [response] * task.config.repeats
    # The first of several ways to find the answer in a text is the one that counts.
    task._filters[0].apply(question.requests)
    results = [request.filtered_resps[task._filters[0].name] for request in question.requests]
    value = float(task.process_results(question.doc, results)[benchmark.metric])
    if value not in (0.0, 1.0):
        raise DataError(
            f"{benchmark.name!r} gives {benchmark.metric} {value} to question {question.number}; base "
            "and tuned are compared by answers that are right or wrong. Leave it out of "
            "eval.benchmarks.tasks."
        )
    scored = task.OUTPUT_TYPE == "multiple_choice"
    logprobs = [response[0] for response in responses] if scored else []
    generated = question.request_type == "generate_until"
    return BenchmarkSample(
        benchmark=benchmark.name,
        subject=question.subject,
        question=question.number,
        digest=question.digest,
        model=model,
        choice=_choice(benchmark, question, logprobs) if scored else None,
        correct=value == 1.0,
        logprobs=logprobs,
        response=responses[0] if generated else None,
    )


def _choice(benchmark: Benchmark, question: Question, logprobs: list[float]) -> int:
    choices = benchmark.subjects[question.subject].doc_to_choice(question.doc)
    values = np.array(logprobs[: len(choices)])
    if benchmark.metric == "acc_norm":
        values = values / [len(choice) for choice in choices]
    return int(values.argmax())

"""What the models answered: some examples of each outcome."""

from __future__ import annotations

import math
from typing import NamedTuple

from doratune.record.evaluation import Sample
from doratune.report.records import Evaluation
from doratune.report.text import clipped, percent


class Answer(NamedTuple):
    """What one model said to an example."""

    text: str
    correct: bool
    probability: str
    """Among the labels; empty for open tasks."""


class Shown(NamedTuple):
    """One example of the report."""

    outcome: str
    """``fixed``, ``broken``, ``both wrong`` or ``both right``."""
    id: str
    prompt: str
    reference: str
    base: Answer
    tuned: Answer


class Answers(NamedTuple):
    """Examples, and how many there are of each outcome."""

    tally: dict[str, int]
    shared: str
    """Last paragraph of the prompt, where all prompts end the same; it is left out of each."""
    shown: list[Shown]


def answers(evaluation: Evaluation, most: int = 8) -> Answers:
    """Chooses examples: three fixed, three broken, two wrong in both, and what is there to fill up.

    Within an outcome they are taken by id, which is a hash: nobody picked them.
    """
    # Those of the validation split are there for the temperature.
    samples = [one for one in evaluation.samples if one.split == evaluation.file.split]
    rows = {(sample.id, sample.model): sample for sample in samples}
    pairs: dict[str, list[tuple[Sample, Sample]]] = {
        outcome: [] for outcome in ("fixed", "broken", "both wrong", "both right")
    }
    for sample_id in sorted({sample.id for sample in samples}):
        base, tuned = rows.get((sample_id, "base")), rows.get((sample_id, "tuned"))
        if base and tuned:
            pairs[_outcome(base, tuned)].append((base, tuned))
    first = {"fixed": 3, "broken": 3, "both wrong": 2, "both right": 0}
    chosen = {outcome: found[: first[outcome]] for outcome, found in pairs.items()}
    for outcome, found in pairs.items():
        free = most - sum(map(len, chosen.values()))
        chosen[outcome] = found[: len(chosen[outcome]) + free]
    prompts = {id: example.prompt[-1].content for id, example in evaluation.examples.items()}
    endings = {text.rpartition("\n\n")[2] for text in prompts.values()}
    shared = endings.pop() if len(endings) == 1 and len(prompts) > 1 else ""
    return Answers(
        {outcome: len(found) for outcome, found in pairs.items()},
        shared,
        [
            _shown(outcome, base, tuned, prompts.get(base.id, "").removesuffix(shared).strip())
            for outcome, found in chosen.items()
            for base, tuned in found
        ],
    )


def _outcome(base: Sample, tuned: Sample) -> str:
    if base.correct == tuned.correct:
        return "both right" if tuned.correct else "both wrong"
    return "fixed" if tuned.correct else "broken"


def _shown(outcome: str, base: Sample, tuned: Sample, prompt: str) -> Shown:
    return Shown(
        outcome,
        base.id,
        clipped(prompt, 600),
        clipped(base.reference, 300),
        *(
            Answer(clipped(sample.prediction, 300), sample.correct, _probability(sample))
            for sample in (base, tuned)
        ),
    )


def _probability(sample: Sample) -> str:
    logprobs = sample.label_logprobs
    if not logprobs or sample.prediction not in logprobs:
        return ""
    total = math.fsum(math.exp(value - max(logprobs.values())) for value in logprobs.values())
    return percent(math.exp(logprobs[sample.prediction] - max(logprobs.values())) / total, 0)

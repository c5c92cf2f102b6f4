"""What the records say, in plain sentences made by fixed rules; and what they do not say."""

from __future__ import annotations

from typing import Literal, NamedTuple

from doratune.record.evaluation import EvalFile
from doratune.record.schemas import VerifyFile
from doratune.report.records import Records
from doratune.report.text import (
    count,
    equals,
    p_value,
    percent,
    plain,
    plain_range,
    points,
    points_range,
)

SMALL_TEST_SPLIT = 100
"""Below this a 95 % interval of an accuracy spans about 20 points."""

State = Literal["better", "worse", "undecided", "unknown"]


class Verdict(NamedTuple):
    """The top of the page."""

    state: State
    headline: str
    alarm: bool
    """Whether the merged model must not be used."""
    details: list[str]


def judge(records: Records) -> Verdict:
    """The verdict on a run.

    A model is better or worse only when the paired interval excludes zero *and* McNemar's exact
    test has p < 0.05; otherwise the two are not distinguishable here.
    """
    state: State = "unknown"
    headline = "Whether tuned is better than base was not measured"
    details: list[str] = []
    for number, evaluation in enumerate(records.evaluations):
        file = evaluation.file
        own_state, own_headline = _compare(file)
        if number == 0:
            state, headline = own_state, own_headline
        else:
            details.append(f"{own_headline}.")
        details.append(_figures(file))
        details += _cautions(file, own_state, records)
    alarm = records.verify is not None and not records.verify.passed
    if alarm:
        link = "but" if state == "better" else "and"
        headline += f", {link} the merged model is not the sidecar model: do not deploy it"
    details.append(_merged(records.verify))
    return Verdict(state, f"{headline}.", alarm, details)


def _compare(file: EvalFile) -> tuple[State, str]:
    interval, p = file.difference.value, file.difference.p_value
    if p < 0.05 and interval.low > 0:
        return "better", f"Tuned is better than base on {file.task}"
    if p < 0.05 and interval.high < 0:
        return "worse", f"Tuned is worse than base on {file.task}"
    return "undecided", f"Tuned is not distinguishable from base on {file.task}"


def _figures(file: EvalFile) -> str:
    name = "Accuracy" if file.kind == "labels" else "Exact match"
    base = file.base.accuracy if file.kind == "labels" else file.base.exact_match
    tuned = file.tuned.accuracy if file.kind == "labels" else file.tuned.exact_match
    shares = (
        f"{name} {percent(tuned.value)} against {percent(base.value)}"
        if base and tuned
        else f"{name} not measured"
    )
    interval = file.difference.value
    sentence = (
        f"{shares}, {points(interval.value)} points (95 % interval {points_range(interval)}, "
        f"{equals('n', interval.n)}, McNemar {p_value(file.difference.p_value)})."
    )
    if file.kind == "labels":
        return sentence
    before, after = file.base.answer_nll, file.tuned.answer_nll
    return (
        f"{sentence} The reference answers' negative log-likelihood went from "
        f"{plain(before.value)} ({plain_range(before)}) to {plain(after.value)} "
        f"({plain_range(after)}) nats per token."
    )


def _cautions(file: EvalFile, state: State, records: Records) -> list[str]:
    sentences = []
    interval = file.difference.value
    size = equals("n", file.num_examples)
    half_width = 50 * (interval.high - interval.low)
    blind = f"a difference below about {plain(half_width, 1)} points could not be seen"
    if interval.low == interval.high == 0:
        sentences.append(
            f"Both models were right and wrong on the same {file.num_examples:,} examples, so this "
            "interval has no width and proves nothing."
        )
    elif file.num_examples < SMALL_TEST_SPLIT:
        sentences.append(
            f"The {file.split} split is small ({size})"
            + (f": {blind}." if half_width else ", its intervals are rough.")
        )
    elif state == "undecided":
        sentences.append(f"With {size}, {blind}.")
    most_common = majority(records, file)
    if most_common and file.tuned.accuracy and file.tuned.accuracy.value <= most_common[1]:
        sentences.append(
            f"Always answering “{most_common[0]}” would score {percent(most_common[1])}, "
            "no less than the tuned model."
        )
    return sentences


def majority(records: Records, file: EvalFile) -> tuple[str, float] | None:
    """The most frequent label of the evaluated split and its share; None where unknown."""
    summary = records.data.splits.get(file.split) if records.data else None
    if file.kind != "labels" or not summary or not summary.label_counts:
        return None
    label = max(summary.label_counts, key=lambda name: summary.label_counts[name])
    return label, summary.label_counts[label] / sum(summary.label_counts.values())


def _merged(verify: VerifyFile | None) -> str:
    if verify is None:
        return "Whether the merged model equals the sidecar was not measured."
    if verify.passed:
        return f"Merged equals the sidecar within {verify.dtype} rounding."
    return " ".join(["The check of the merged model failed.", *verify.failures])


def limits(records: Records) -> list[str]:
    """What this run does not show."""
    seed = records.record.seed if records.record else None
    sentences = [
        f"One seed{'' if seed is None else f' ({seed})'}. The intervals cover the choice of test "
        "examples, not the chance in training; another seed gives another model."
    ]
    if records.method == "dora":
        sentences.append(
            "No rank-matched LoRA was trained. Nothing here says that DoRA rather than LoRA made "
            "the difference."
        )
    sentences.append(
        "General abilities, by MMLU for instance, were not measured. The model may have forgotten "
        "what the task does not ask for."
    )
    made = [s.path for s in records.data.sources if s.kind == "builtin"] if records.data else []
    if made:
        sentences.append(
            f"The examples come from a generator ({', '.join(made)}). They show that the path "
            "works, not how the model does on texts of your own."
        )
    elif records.recipe and records.recipe.data.test_source is None:
        sentences.append(
            "Test and training examples come from the same source. Texts from elsewhere may be "
            "harder."
        )
    kinds = {evaluation.file.kind for evaluation in records.evaluations}
    if "labels" in kinds:
        sentences.append(
            "Labels were chosen by likelihood among the closed set. Freely generated answers may "
            "fall outside it."
        )
    if "generation" in kinds:
        sentences.append(
            "Exact match counts any other wording as wrong, and so says little about free text."
        )
    if records.verify:
        sentences.append(
            f"Merged and sidecar were compared at {count(records.verify.num_tokens)} positions of "
            f"{records.verify.num_prompts} prompts."
        )
    return sentences

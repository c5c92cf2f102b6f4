"""What the records say, in plain sentences made by fixed rules."""

from __future__ import annotations

from typing import Literal, NamedTuple

from doratune.record.benchmarks import BenchmarkFigures, BenchmarksFile
from doratune.record.evaluation import METRICS, EvalFile
from doratune.record.schemas import VerifyFile
from doratune.report import units
from doratune.report.records import Records
from doratune.report.text import (
    equals,
    figure,
    figure_range,
    first_upper,
    listed,
    p_value,
    percent,
    plain,
    points,
    points_range,
)

SMALL_TEST_SPLIT = 100
"""Below this a 95 % interval of an accuracy spans about 20 points."""

State = Literal["better", "worse", "undecided", "unknown"]


class Verdict(NamedTuple):
    """The top of the page."""

    state: State
    """Of the task alone."""
    headline: str
    alarm: bool
    """Whether something forbids to use the model."""
    details: list[str]


def judge(records: Records) -> Verdict:
    """The verdict on a run.

    A model is better or worse only when the paired interval of the task's primary metric excludes
    zero *and* McNemar's exact test has p < 0.05; otherwise the two are not distinguishable here. A
    benchmark that lost more than the recipe allows turns the verdict.
    """
    state: State = "unknown"
    headline = "whether tuned is better than base was not measured"
    details: list[str] = []
    for number, evaluation in enumerate(records.evaluations):
        file = evaluation.file
        own_state, own_headline = _compare(file)
        if number == 0:
            state, headline = own_state, own_headline
        else:
            details.append(f"{first_upper(own_headline)}.")
        details += [_figures(file), *_cautions(file, own_state, records)]
    lost = _lost(records.benchmarks)
    if lost:
        link = "though" if state == "better" else "and"
        headline = f"tuned does not pass: it {lost}, {link} {headline.replace('tuned', 'it', 1)}"
    broken = records.verify is not None and not records.verify.passed
    if broken:
        link = "but" if state == "better" and not lost else "and"
        headline += f", {link} the merged model is not the sidecar model: do not deploy it"
    details += [_abilities(records.benchmarks), _merged(records.verify)]
    checks = records.forms.checks if records.forms else {}
    wrong = [name for name, check in checks.items() if check.failures]
    if wrong:
        details.append(f"Exported, but not the trained model: {listed(wrong)}.")
    alarm = bool(lost or broken or wrong)
    return Verdict(state, f"{first_upper(headline)}.", alarm, details)


def _compare(file: EvalFile) -> tuple[State, str]:
    found = file.differences.get(file.primary)
    if found is None:
        return "unknown", f"whether tuned is better than base on {file.task} was not measured"
    interval = found.value
    certain = found.p_value is None or found.p_value < 0.05
    if certain and (interval.low > 0 or interval.high < 0):
        if units.gain(file.primary, interval.low) > 0:
            return "better", f"tuned is better than base on {file.task}"
        return "worse", f"tuned is worse than base on {file.task}"
    return "undecided", f"tuned is not distinguishable from base on {file.task}"


def _figures(file: EvalFile) -> str:
    key, title = file.primary, METRICS[file.primary].title
    base, tuned = file.base.metrics.get(key), file.tuned.metrics.get(key)
    found = file.differences.get(key)
    if base is None or tuned is None or found is None:
        return f"{title} was not measured."
    interval = found.value
    tested = f", McNemar {p_value(found.p_value)}" if found.p_value is not None else ""
    sentence = (
        f"{title} {units.value(key, tuned.value)} against {units.value(key, base.value)}, "
        f"{units.change(key, interval.value)} (95 % interval {units.change_ends(key, interval)}, "
        f"{equals('n', interval.n)}{tested})."
    )
    losses = [file.figures(model).metrics.get("answer_nll") for model in ("base", "tuned")]
    before, after = losses
    if file.kind == "labels" or before is None or after is None:
        return sentence
    return (
        f"{sentence} The loss on the reference answers went from {figure(before.value)} "
        f"({figure_range(before)}) to {figure(after.value)} ({figure_range(after)}) nats per token."
    )


def _cautions(file: EvalFile, state: State, records: Records) -> list[str]:
    sentences = []
    found = file.differences.get(file.primary)
    if found is not None:
        interval = found.value
        size = equals("n", file.num_examples)
        half_width = (interval.high - interval.low) / 2
        blind = f"a difference below about {units.size(file.primary, half_width)} could not be seen"
        if interval.low == interval.high == 0:
            sentences.append(
                f"Both models were right and wrong on the same {file.num_examples:,} examples, so "
                "this interval has no width and proves nothing."
            )
        elif file.num_examples < SMALL_TEST_SPLIT:
            sentences.append(
                f"The {file.split} split is small ({size})"
                + (f": {blind}." if half_width else ", its intervals are rough.")
            )
        elif state == "undecided":
            sentences.append(f"With {size}, {blind}.")
    most_common = majority(records, file)
    accuracy = file.tuned.metrics.get("accuracy")
    if most_common and accuracy and accuracy.value <= most_common[1]:
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


def _lost(file: BenchmarksFile | None) -> str:
    """What it lost on the benchmarks that did not pass; empty where all did."""
    failed = [one for one in file.benchmarks if not one.passed] if file else []
    if file is None or not failed:
        return ""
    named = listed([f"{_drop(one)} points on {one.benchmark}" for one in failed])
    return f"lost {named}, where {file.max_drop_points:g} are allowed"


def _drop(one: BenchmarkFigures) -> str:
    return plain(-100 * one.difference.value, 1)


def _abilities(file: BenchmarksFile | None) -> str:
    if file is None or not (file.benchmarks or file.out_of_domain):
        return "What became of other abilities was not measured."
    sentences = [
        f"{one.benchmark}: {percent(one.tuned.value)} against {percent(one.base.value)}, "
        f"{points(one.difference.value)} points ({_interval(one)}, "
        f"{equals('n', one.num_questions)}; a change of {plain(100 * one.smallest_detectable, 1)} "
        "points would show)."
        for one in file.benchmarks
    ]
    if file.out_of_domain:
        ratio = file.out_of_domain.ratio
        sentences.append(
            f"Perplexity of texts from elsewhere: {figure(ratio.value)} times the base's "
            f"(95 % interval {figure_range(ratio)})."
        )
    return " ".join(sentences)


def _interval(one: BenchmarkFigures) -> str:
    """The interval of its difference, which has no width where no answer changed."""
    if one.difference.low == one.difference.high == 0:
        return "right and wrong on the same questions, so without an interval"
    return f"95 % interval {points_range(one.difference)}"


def _merged(verify: VerifyFile | None) -> str:
    if verify is None:
        return "Whether the merged model equals the sidecar was not measured."
    if verify.passed:
        return f"Merged equals the sidecar within {verify.dtype} rounding."
    return " ".join(["The check of the merged model failed.", *verify.failures])

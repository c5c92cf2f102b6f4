"""What an A/B says, in sentences made by fixed rules; the rules are in docs/compare_statistics.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from doratune.compare.statistics import LEVEL, Outcomes, compare_pair, holm
from doratune.record.comparison import ARMS, Arm, ArmFigures, CompareFile, JobRecord, PairFigures
from doratune.report import units
from doratune.report.tables.arms import arm_name
from doratune.report.text import equals, figure, p_value, percent, plain

SMALL_TEST_SPLIT = 100
"""Below this a 95 % interval of an accuracy spans about 20 points."""
SAME_SIZE = 1.01
"""Up to this ratio two arms count as having the same number of trainable parameters."""


class Verdict(NamedTuple):
    """For ``compare.json``."""

    sentence: str
    cautions: list[str]


def judge_pairs(
    outcomes: Mapping[Arm, Outcomes], arms: Sequence[ArmFigures], reference: Arm, primary: str
) -> list[PairFigures]:
    """Every other arm against the reference, with p-values corrected over all pairs (Holm-Bonferroni).

    An arm is better or worse only where the corrected p-value is below 0.05 and no trained arm of the
    pair has a single seed.

    Args:
        outcomes: By arm, all on the same examples in the same order; the reference among them.
        arms: Figures of these arms, in the order in which the pairs are wanted.
        reference: The arm that the others are compared with.
        primary: Key of `doratune.record.evaluation.METRICS`.

    Raises:
        DataError: The arms answered different numbers of examples, or a value is not finite.
    """
    by_arm = {figures.arm: figures for figures in arms}
    others = [figures.arm for figures in arms if figures.arm != reference]
    statistics = [compare_pair(outcomes[arm], outcomes[reference]) for arm in others]
    adjusted = holm([pair.p_value for pair in statistics])
    pairs = []
    for arm, pair, corrected in zip(others, statistics, adjusted, strict=True):
        mine, its = by_arm[arm], by_arm[reference]
        wins = units.gain(primary, pair.difference.value) > 0
        shown = corrected < LEVEL and pair.smallest_detectable is not None
        pairs.append(
            PairFigures(
                arm=arm,
                reference=reference,
                difference=pair.difference,
                p_value=pair.p_value,
                adjusted_p_value=corrected,
                mcnemar_p_value=pair.mcnemar_p_value,
                smallest_detectable=pair.smallest_detectable,
                verdict=("better" if wins else "worse") if shown else "not distinguishable",
                time_ratio=_ratio(mine.seconds, its.seconds),
                memory_ratio=_ratio(mine.peak_memory_bytes, its.peak_memory_bytes),
            )
        )
    return pairs


def conclude(file: CompareFile) -> Verdict:
    """The verdict on a comparison whose arms, pairs, jobs and sweep are known.

    Args:
        file: Its ``verdict`` and ``cautions`` are not looked at.
    """
    trained = [pair for pair in file.pairs if pair.arm != "base"]
    base = [pair for pair in file.pairs if pair.arm == "base"]
    clauses = [_clause(pair, file) for pair in [*trained, *base]]
    if not clauses:
        clauses = [f"only {ARMS[file.reference]} was trained, so nothing can be compared"]
    sentence = f"On {file.task}, {'; '.join(clauses)}."
    return Verdict(sentence, _cautions(file))


def _clause(pair: PairFigures, file: CompareFile) -> str:
    name, reference = ARMS[pair.arm], ARMS[pair.reference]
    seeds = {figures.arm: figures.num_seeds for figures in file.arms}
    numbers = [f"95 % interval {units.change_ends(file.primary, pair.difference)}"]
    if pair.smallest_detectable is not None:
        numbers.append(f"corrected {p_value(pair.adjusted_p_value)}")
    numbers += [
        _seeds([seeds[arm] for arm in (pair.arm, pair.reference) if arm != "base"]),
        equals("n", pair.difference.n),
    ]
    result = f"{units.change(file.primary, pair.difference.value)} ({', '.join(numbers)})"
    if pair.verdict != "not distinguishable":
        text = f"{name} is {pair.verdict} than {reference}: {result}"
    elif pair.smallest_detectable is None:
        text = (
            f"{name} and {reference} cannot be told apart with one seed, which leaves the method's part "
            f"unknown: {result}, over examples only"
        )
    else:
        least = units.size(file.primary, pair.smallest_detectable)
        text = (
            f"{name} is not distinguishable from {reference}: {result}, where a true difference of "
            f"{least} would be found four times in five"
        )
    return text if pair.arm == "base" else f"{text}, {_cost(pair)}"


def _cost(pair: PairFigures) -> str:
    parts = []
    if pair.time_ratio is not None:
        parts.append(f"{plain(pair.time_ratio, 2)} times the training time")
    if pair.memory_ratio is not None:
        parts.append(f"{plain(pair.memory_ratio, 2)} times the peak memory")
    return f"at {' and '.join(parts)}" if parts else "at a cost that was not measured"


def _cautions(file: CompareFile) -> list[str]:
    sentences = []
    single = [ARMS[a.arm] for a in file.arms if a.arm != "base" and a.num_seeds == 1]
    if single:
        sentences.append(
            f"One seed only: {', '.join(single)}. How much another seed would change is unknown, so no "
            "difference counts as shown; the intervals are over examples only. Use three seeds or more."
        )
    if file.num_examples < SMALL_TEST_SPLIT:
        sentences.append(
            f"The test split is small ({equals('n', file.num_examples)}), its intervals are rough."
        )
    sentences += [sentence for figures in file.arms if (sentence := _edge(figures, file.jobs))]
    sentences += _failures(file.jobs)
    sentences += _sizes(file)
    return sentences


def _edge(figures: ArmFigures, jobs: Sequence[JobRecord]) -> str | None:
    """Whether a better learning rate may lie outside those that were tried."""
    if figures.learning_rate is None:
        return None
    name = arm_name(figures.arm)
    tried = sorted(
        {
            job.learning_rate
            for job in jobs
            if job.arm == figures.arm and job.stage == "sweep" and job.learning_rate is not None
        }
    )
    if len(tried) < 2:
        return f"{name} had one learning rate only ({figures.learning_rate:g})."
    # The nearest, since rates that went through a file or a product need not be equal to the last bit.
    ratios = [abs(math.log(rate / figures.learning_rate)) for rate in tried]
    best = ratios.index(min(ratios))
    if 0 < best < len(tried) - 1:
        return None
    which = "lowest" if best == 0 else "highest"
    return (
        f"{name} did best at the {which} learning rate that was tried "
        f"({figures.learning_rate:g}); one beyond it may be better."
    )


def _failures(jobs: Sequence[JobRecord]) -> list[str]:
    failed = [job for job in jobs if job.status == "failed"]
    if not failed:
        return []
    names = ", ".join(job.name for job in failed[:3]) + (" and others" if len(failed) > 3 else "")
    return [f"{len(failed)} of {len(jobs)} runs failed ({names}); the figures are of the others."]


def _sizes(file: CompareFile) -> list[str]:
    sizes = {f.arm: f.num_trainable_parameters for f in file.arms}
    own = sizes[file.reference]
    sentences = []
    for arm, size in sizes.items():
        if arm in ("base", file.reference) or not size or not own:
            continue
        ratio = size / own
        if 1 / SAME_SIZE <= ratio <= SAME_SIZE:
            continue
        times = (
            f"{percent(abs(ratio - 1))} {'more' if ratio > 1 else 'fewer'} parameters than"
            if 0.5 < ratio < 2
            else f"{figure(ratio)} times the parameters of"
        )
        sentences.append(f"{arm_name(arm)} trains {times} {ARMS[file.reference]}.")
    return sentences


def _seeds(counts: Sequence[int]) -> str:
    if len(set(counts)) == 1:
        each = " each" if len(counts) > 1 else ""
        return f"{counts[0]} {'seed' if counts[0] == 1 else 'seeds'}{each}"
    return f"{' and '.join(map(str, counts))} seeds"


def _ratio(mine: float | None, its: float | None) -> float | None:
    return mine / its if mine is not None and its else None

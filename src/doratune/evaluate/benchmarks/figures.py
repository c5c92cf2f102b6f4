"""What the answers of base and tuned say, paired by question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from doratune.evaluate.benchmarks.power import smallest_detectable
from doratune.evaluate.benchmarks.tasks import Benchmark
from doratune.evaluate.metrics.intervals import NUM_DRAWS, sign_test
from doratune.record.benchmarks import BenchmarkFigures, BenchmarkSample, SubjectFigures
from doratune.record.evaluation import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Stratum(NamedTuple):
    """Questions that are drawn among themselves, and their part of the figure."""

    counts: tuple[int, int, int, int]
    """Questions that both, only tuned, only base, and neither of the models answered right."""
    weight: float

    @property
    def size(self) -> int:
        """Number of questions."""
        return sum(self.counts)


def make_figures(
    benchmark: Benchmark,
    available: int,
    samples: Sequence[BenchmarkSample],
    *,
    version: str,
    max_drop_points: float,
    seed: int,
) -> BenchmarkFigures:
    """The figures of one benchmark.

    Args:
        benchmark: Which.
        available: Its questions, asked or not.
        samples: Of both models on the same questions, in any order.
        version: lm-eval's.
        max_drop_points: A larger drop does not pass.
        seed: Of the bootstrap.
    """
    counts = _counts(samples)
    strata = _strata(counts, benchmark.average)
    base, tuned, difference = bootstrapped(strata, seed)
    # All questions of one weight: what counts is the number of them that would vary as much.
    effective = 1 / sum(stratum.weight**2 / stratum.size for stratum in strata)
    return BenchmarkFigures(
        benchmark=benchmark.name,
        version=f"{benchmark.version}, lm-eval {version}",
        metric=benchmark.metric,
        average=benchmark.average,
        num_fewshot=benchmark.num_fewshot,
        num_questions=sum(map(sum, counts.values())),
        num_available=available,
        base=base,
        tuned=tuned,
        difference=difference,
        p_value=_mcnemar(counts),
        smallest_detectable=smallest_detectable(effective, _discordance(strata)),
        passed=100 * difference.value >= -max_drop_points,
        subjects=_subjects(counts, seed) if len(benchmark.subjects) > 1 else [],
    )


def bootstrapped(strata: Sequence[Stratum], seed: int) -> tuple[Interval, Interval, Interval]:
    """Base, tuned and tuned minus base with 95 % intervals, from questions drawn within strata.

    One question less is drawn than a stratum has: the draws of small strata would vary too little
    otherwise, by (n - 1) / n (Rao and Wu 1988).
    """
    rng = np.random.default_rng(seed)
    draws = np.zeros((NUM_DRAWS, 4))
    value = np.zeros(4)
    for stratum in strata:
        shares = np.array(stratum.counts) / stratum.size
        value += stratum.weight * shares
        if stratum.size > 1:
            drawn = rng.multinomial(stratum.size - 1, shares, NUM_DRAWS) / (stratum.size - 1)
        else:
            drawn = np.broadcast_to(shares, (NUM_DRAWS, 4))
        draws += stratum.weight * drawn
    n = sum(stratum.size for stratum in strata)
    by = f" within {len(strata)} subjects" if len(strata) > 1 else ""
    method = f"bootstrap over questions{by} ({NUM_DRAWS} draws, seed {seed})"

    def interval(sides: list[int]) -> Interval:
        low, high = np.quantile(draws @ sides, [0.025, 0.975])
        return Interval(
            value=float(value @ sides), low=float(low), high=float(high), n=n, method=method
        )

    return interval([1, 0, 1, 0]), interval([1, 1, 0, 0]), interval([0, 1, -1, 0])


def _counts(samples: Sequence[BenchmarkSample]) -> dict[str, tuple[int, int, int, int]]:
    """By subject: questions that both, only tuned, only base, and neither answered right."""
    right: dict[tuple[str, int], dict[str, bool]] = defaultdict(dict)
    for sample in samples:
        right[sample.subject, sample.question][sample.model] = sample.correct
    kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (subject, _), by in sorted(right.items()):
        kinds[subject][(0 if by["base"] else 1) if by["tuned"] else (2 if by["base"] else 3)] += 1
    return {subject: (a, b, c, d) for subject, (a, b, c, d) in kinds.items()}


def _strata(counts: dict[str, tuple[int, int, int, int]], average: str) -> list[Stratum]:
    """The subjects; those of one question, which could not be drawn otherwise, as one together."""
    n = sum(map(sum, counts.values()))
    weights = {
        subject: 1 / len(counts) if average == "subjects" else sum(own) / n
        for subject, own in counts.items()
    }
    strata = [Stratum(own, weights[s]) for s, own in counts.items() if sum(own) > 1]
    single = [subject for subject, own in counts.items() if sum(own) == 1]
    if single:
        both, tuned, base, neither = np.sum([counts[subject] for subject in single], axis=0)
        weight = sum(weights[subject] for subject in single)
        strata.append(Stratum((int(both), int(tuned), int(base), int(neither)), weight))
    return strata


def _discordance(strata: Sequence[Stratum]) -> float:
    """Share of questions that exactly one model answered right, weighted as the figure's variance."""
    parts = [stratum.weight**2 / stratum.size for stratum in strata]
    shares = [(stratum.counts[1] + stratum.counts[2]) / stratum.size for stratum in strata]
    return float(np.average(shares, weights=parts))


def _mcnemar(counts: dict[str, tuple[int, int, int, int]]) -> float:
    _, gained, lost, _ = map(int, np.sum(list(counts.values()), axis=0))
    return sign_test(gained, lost)


def _subjects(counts: dict[str, tuple[int, int, int, int]], seed: int) -> list[SubjectFigures]:
    rows = []
    for subject, own in counts.items():
        base, tuned, difference = bootstrapped([Stratum(own, 1.0)], seed)
        rows.append(
            SubjectFigures(
                subject=subject,
                num_questions=sum(own),
                base=base.value,
                tuned=tuned.value,
                difference=difference,
            )
        )
    return rows

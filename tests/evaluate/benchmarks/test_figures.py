from __future__ import annotations

import math

import numpy as np
import pytest

from doratune.evaluate.benchmarks.figures import Stratum, bootstrapped, make_figures
from doratune.evaluate.benchmarks.power import smallest_detectable
from doratune.evaluate.benchmarks.tasks import Benchmark
from doratune.record.benchmarks import BenchmarkFigures, BenchmarkSample
from doratune.record.evaluation import Model

Rows = dict[str, list[tuple[bool, bool]]]
"""By subject, whether base and tuned were right, question by question."""


def samples(rows: Rows) -> list[BenchmarkSample]:
    made = [
        BenchmarkSample(
            benchmark="b", subject=subject, question=n, digest=f"{subject}{n}",
            model=model, choice=None, correct=right,
        )
        for subject, questions in rows.items()
        for n, pair in enumerate(questions)
        for model, right in zip(("base", "tuned"), pair, strict=True)
    ]  # fmt: skip
    np.random.default_rng(0).shuffle(made)  # type: ignore[arg-type]
    return made


def figures(
    rows: Rows, average: str = "questions", max_drop_points: float = 2.0
) -> BenchmarkFigures:
    benchmark = Benchmark("b", dict.fromkeys(rows), average, "acc", 5, "1.0")  # type: ignore[arg-type]
    return make_figures(
        benchmark, 1000, samples(rows), version="0.4.13", max_drop_points=max_drop_points, seed=0
    )


def draw(
    rng: np.random.Generator, number: int, base: float, gain: float
) -> list[tuple[bool, bool]]:
    right = rng.random(number) < base
    changed = rng.random(number) < 0.2
    other = rng.random(number) < base + gain
    return [(bool(b), bool(o if c else b)) for b, c, o in zip(right, changed, other, strict=True)]


ROWS: Rows = {
    "one": [(True, True)] * 3 + [(False, True)] * 2 + [(True, False)] + [(False, False)] * 4,
    "two": [(True, True)] * 1 + [(True, False)] * 3 + [(False, False)] * 16,
}


def test_every_question_counts_alike() -> None:
    found = figures(ROWS)
    assert found.base.value == pytest.approx((4 + 4) / 30)
    assert found.tuned.value == pytest.approx((5 + 1) / 30)
    assert found.difference.value == pytest.approx(-2 / 30)
    assert (found.num_questions, found.num_available, found.base.n) == (30, 1000, 30)
    assert found.version == "1.0, lm-eval 0.4.13"


def test_every_subject_counts_alike() -> None:
    found = figures(ROWS, "subjects")
    assert found.base.value == pytest.approx((4 / 10 + 4 / 20) / 2)
    assert found.tuned.value == pytest.approx((5 / 10 + 1 / 20) / 2)
    assert found.difference.value == pytest.approx((1 / 10 - 3 / 20) / 2)


def test_subjects_have_figures_of_their_own() -> None:
    one, two = figures(ROWS).subjects
    assert (one.subject, one.num_questions, one.base, one.tuned) == ("one", 10, 0.4, 0.5)
    assert (two.subject, two.num_questions, two.base, two.tuned) == ("two", 20, 0.2, 0.05)
    assert one.difference.value == pytest.approx(0.1)
    assert two.difference.low < two.difference.value < two.difference.high
    assert figures({"one": ROWS["one"]}).subjects == []


def test_mcnemar_by_its_definition() -> None:
    """2 questions gained, 4 lost: the sign test of 6 coins."""
    tail = sum(math.comb(6, k) for k in range(3)) / 2**6
    assert figures(ROWS).p_value == pytest.approx(2 * tail)
    assert figures({"one": [(True, True), (False, False)]}).p_value == 1.0


def test_what_so_many_questions_can_show() -> None:
    assert figures(ROWS).smallest_detectable == pytest.approx(smallest_detectable(30, 6 / 30))
    # Averaged over subjects the variance is that of fewer questions, and the small subject counts more.
    variances = np.array([0.25 / 10, 0.25 / 20])
    discordance = np.average([3 / 10, 3 / 20], weights=variances)
    assert figures(ROWS, "subjects").smallest_detectable == pytest.approx(
        smallest_detectable(1 / variances.sum(), discordance)
    )


@pytest.mark.parametrize(("allowed", "passed"), [(2.0, False), (6.6, False), (6.7, True)])
def test_a_larger_drop_does_not_pass(allowed: float, passed: bool) -> None:
    assert figures(ROWS, max_drop_points=allowed).passed is passed


@pytest.mark.parametrize("size", [2, 3, 40])
def test_intervals_cover_the_truth(size: int) -> None:
    """Also where every subject has two questions, as in a small subset of many subjects."""
    rng = np.random.default_rng(0)
    number = 120 // size
    rates = rng.uniform(0.2, 0.8, number)
    truth = float(np.mean(0.2 * 0.05 * np.ones(number)))
    covered = 0
    for _ in range(200):
        strata = []
        for rate in rates:
            rows = np.array(draw(rng, size, rate, 0.05))
            both, tuned = (rows.all(1).sum(), (~rows[:, 0] & rows[:, 1]).sum())
            base = (rows[:, 0] & ~rows[:, 1]).sum()
            counts = (int(both), int(tuned), int(base), int(size - both - tuned - base))
            strata.append(Stratum(counts, 1 / number))
        low, high = (lambda d: (d.low, d.high))(bootstrapped(strata, 0)[2])
        covered += low <= truth <= high
    # 95 % of 200, four standard deviations.
    assert 178 <= covered <= 200


def test_the_interval_is_as_wide_as_the_paired_formula() -> None:
    rng = np.random.default_rng(1)
    rows = draw(rng, 2000, 0.5, 0.1)
    difference = figures({"one": rows}).difference
    delta = np.array([int(t) - int(b) for b, t in rows])
    expected = 1.96 * delta.std(ddof=1) / math.sqrt(len(delta))
    assert (difference.high - difference.low) / 2 == pytest.approx(expected, rel=0.08)


def test_single_questions_are_drawn_together() -> None:
    """Alone, a subject of one question has nothing to vary."""
    rows = {f"subject {n}": [(n % 2 == 0, n % 3 == 0)] for n in range(60)}
    difference = figures(rows).difference
    assert difference.high - difference.low > 0.2
    assert difference.method == "bootstrap over questions (1000 draws, seed 0)"
    assert "within 2 subjects" in figures(ROWS).difference.method


def test_order_of_samples_does_not_matter() -> None:
    benchmark = Benchmark("b", dict.fromkeys(ROWS), "questions", "acc", 5, "1.0")  # type: ignore[arg-type]
    first, second = (
        make_figures(benchmark, 30, rows, version="x", max_drop_points=2.0, seed=0)
        for rows in (samples(ROWS), samples(ROWS)[::-1])
    )
    assert first == second


def test_models_are_told_apart() -> None:
    swapped: dict[Model, Model] = {"base": "tuned", "tuned": "base"}
    rows = [s.model_copy(update={"model": swapped[s.model]}) for s in samples(ROWS)]
    benchmark = Benchmark("b", dict.fromkeys(ROWS), "questions", "acc", 5, "1.0")  # type: ignore[arg-type]
    found = make_figures(benchmark, 30, rows, version="x", max_drop_points=2.0, seed=0)
    assert found.difference.value == pytest.approx(2 / 30)

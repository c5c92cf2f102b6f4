"""Writes the figures of docs/compare_statistics.md: how often its intervals and verdicts are right.

    python docs/make_compare_statistics.py

Simulated comparisons with a known truth, then 60 real trainings of a tiny model. Takes about a minute
or two of one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm

from doratune.compare.statistics import Outcomes, arm_value, compare_pair

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python docs/make_...py`

from tests.compare.test_same_arm import NUM_EXAMPLES, NUM_SEEDS, repeated
from tests.compare.training import NUM_TEST, STEPS, trainings
from tests.compare.trials import World, draw, judged

REPEATS = 1000
NUM_DRAWS = 200
"""Of the bootstrap that is shown beside."""
SEEDS = (1, 2, 3, 5, 10)
EFFECT = 0.02


def main() -> None:
    page = Path(__file__).with_name("compare_statistics.md")
    before, start, rest = page.read_text().partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- /figures -->")
    parts = []
    for part in (coverage, same_arm, effects, real):
        parts.append(part())
        print(parts[-1], flush=True)
    page.write_text("".join([before, start, "\n", "\n\n".join(parts), "\n\n", end, after]))


def coverage() -> str:
    """How often 95 % intervals hold the true value."""
    rows = [
        "| seeds differ by | examples | seeds | one arm | difference | bootstrap | examples only |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed in (0.0, 0.08):
        world = World(seed=seed, taste=0.3)
        for num_examples in (100, 1000):
            for num_seeds in SEEDS:
                rng = np.random.default_rng([num_examples, num_seeds])
                hits = np.array([held(world, num_seeds, num_examples, rng) for _ in range(REPEATS)])
                cells = " | ".join(f"{share:.1%}" for share in hits.mean(axis=0))
                rows.append(f"| {points_of_seed(world)} | {num_examples} | {num_seeds} | {cells} |")
    return "\n".join(rows)


def held(
    world: World, num_seeds: int, num_examples: int, rng: np.random.Generator
) -> tuple[bool, bool, bool, bool]:
    """Whether each interval holds the truth."""
    arm, reference = draw(world, num_seeds, num_examples, EFFECT, rng)
    means = (Outcomes(a.values.mean(axis=0, keepdims=True)) for a in (arm, reference))
    own, pair, over = (
        arm_value(reference),
        compare_pair(arm, reference).difference,
        compare_pair(*means).difference,
    )
    low, high = np.quantile(pigeonhole(arm, reference, rng), [0.025, 0.975])
    return (
        own.low <= world.accuracy <= own.high,
        pair.low <= EFFECT <= pair.high,
        bool(low <= EFFECT <= high),
        over.low <= EFFECT <= over.high,
    )


def pigeonhole(arm: Outcomes, reference: Outcomes, rng: np.random.Generator) -> np.ndarray:
    """Owen 2007: examples and the seeds of each arm drawn with replacement, percentiles taken."""
    num_examples = arm.values.shape[1]
    examples = rng.multinomial(num_examples, np.full(num_examples, 1 / num_examples), NUM_DRAWS)
    means = []
    for a in (arm, reference):
        k = a.num_seeds
        seeds = rng.multinomial(k, np.full(k, 1 / k), NUM_DRAWS)
        means.append(((examples @ a.values.T) * seeds).sum(axis=1) / (k * num_examples))
    return means[0] - means[1]


def same_arm() -> str:
    """Equal arms by simulation."""
    rows = ["| examples | seeds | better | worse |", "|---|---|---|---|"]
    for num_examples in (100, 500):
        for num_seeds in (1, 3, 5):
            rng = np.random.default_rng([num_examples, num_seeds, 1])
            found = [
                judged(*draw(World(), num_seeds, num_examples, 0.0, rng)).verdict
                for _ in range(REPEATS)
            ]
            shares = (f"{found.count(word) / REPEATS:.1%}" for word in ("better", "worse"))
            rows.append(f"| {num_examples} | {num_seeds} | {' | '.join(shares)} |")
    return "\n".join(rows)


def effects() -> str:
    """Effects of the stated size by simulation."""
    rows = ["| examples | seeds | stated size, points | found |", "|---|---|---|---|"]
    world = World(accuracy=0.6)
    for num_examples in (100, 500, 1000):
        for num_seeds in (2, 3, 5, 10):
            rng = np.random.default_rng([num_examples, num_seeds, 2])
            stated = [
                compare_pair(*draw(world, num_seeds, num_examples, 0.0, rng)).smallest_detectable
                for _ in range(REPEATS)
            ]
            effect = float(np.mean(stated))
            if effect + world.accuracy >= 1:
                rows.append(f"| {num_examples} | {num_seeds} | {100 * effect:.1f} | beyond 100 % |")
                continue
            found = [
                judged(*draw(world, num_seeds, num_examples, effect, rng)).verdict == "better"
                for _ in range(REPEATS)
            ]
            rows.append(
                f"| {num_examples} | {num_seeds} | {100 * effect:.1f} | {np.mean(found):.1%} |"
            )
    return "\n".join(rows)


def real() -> str:
    """Real trainings."""
    torch.set_num_threads(1)
    started = time.monotonic()
    first = trainings(range(NUM_SEEDS))
    again = trainings(range(NUM_SEEDS, 2 * NUM_SEEDS))
    quarter = trainings(range(NUM_SEEDS, 2 * NUM_SEEDS), STEPS // 4)
    seconds = time.monotonic() - started
    text = [
        f"{3 * NUM_SEEDS} trainings in {seconds:.0f} s. Accuracy on {NUM_TEST:,} examples, mean and "
        f"standard deviation over {NUM_SEEDS} seeds: "
        + ", ".join(arms(first, again, quarter))
        + ".",
        "",
        "| first arm against | seeds | comparisons | better | worse | stated size, points "
        "| examples only: p < 0.05 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, other in (("same arm", again), ("a quarter of the steps", quarter)):
        for num_seeds in (3, 5):
            pairs = list(repeated(first, other, num_seeds))
            verdicts = [pair.verdict for pair in pairs]
            shares = [verdicts.count(word) / len(pairs) for word in ("better", "worse")]
            size = np.mean([pair.smallest_detectable for pair in pairs])
            alone = np.mean(list(over_examples(first, other, num_seeds)))
            text.append(
                f"| {name} | {num_seeds} | {len(pairs)} | {shares[0]:.1%} | {shares[1]:.1%} | "
                f"{100 * size:.1f} | {alone:.1%} |"
            )
    return "\n".join(text)


def arms(first: np.ndarray, again: np.ndarray, quarter: np.ndarray) -> Iterator[str]:
    for name, values in (
        ("first arm", first),
        ("same arm", again),
        ("a quarter of the steps", quarter),
    ):
        scores = values.mean(axis=1)
        yield f"{name} {100 * scores.mean():.1f} ± {100 * scores.std(ddof=1):.1f} %"


def over_examples(arm: np.ndarray, reference: np.ndarray, num_seeds: int) -> Iterator[bool]:
    """The same comparisons as if the trainings at hand were all there are."""
    for seed in range(0, NUM_SEEDS - num_seeds + 1, num_seeds):
        for start in range(0, NUM_TEST, NUM_EXAMPLES):
            part = slice(seed, seed + num_seeds), slice(start, start + NUM_EXAMPLES)
            means = (Outcomes(a[part].mean(axis=0, keepdims=True)) for a in (arm, reference))
            yield compare_pair(*means).p_value < 0.05


def points_of_seed(world: World) -> str:
    """Standard deviation of an arm's accuracy over seeds, on all the examples there could be."""
    seeds = world.seed * norm.ppf((np.arange(2000) + 0.5) / 2000)
    rest = np.sqrt(world.spread**2 - world.seed**2)
    level = world.spread * norm.ppf(world.accuracy)
    return f"{100 * norm.cdf((level + seeds) / rest).std():.1f} points"


if __name__ == "__main__":
    main()

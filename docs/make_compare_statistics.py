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
NUM_BOOTSTRAPS, NUM_DRAWS = 200, 200
"""Comparisons that a bootstrap is shown for, and its draws."""
SEEDS = (1, 2, 3, 5, 10)
EFFECT = 0.02


def main() -> None:
    page = Path(__file__).with_name("compare_statistics.md")
    before, start, rest = page.read_text().partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- /figures -->")
    parts = []
    for part, caption in CAPTIONS.items():
        parts.append(f"{caption}\n\n{part()}")
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
                drawn = [draw(world, num_seeds, num_examples, EFFECT, rng) for _ in range(REPEATS)]
                hits = np.mean([held(world, *arms) for arms in drawn], axis=0)
                peer = np.mean([bootstrap_holds(*arms, rng) for arms in drawn[:NUM_BOOTSTRAPS]])
                cells = " | ".join(f"{share:.1%}" for share in (*hits[:2], peer, hits[2]))
                rows.append(f"| {points_of_seed(world)} | {num_examples} | {num_seeds} | {cells} |")
    return "\n".join(rows)


def held(world: World, arm: Outcomes, reference: Outcomes) -> tuple[bool, bool, bool]:
    """Whether the intervals hold the truth: of one arm, of the difference, and over examples only."""
    means = (Outcomes(a.values.mean(axis=0, keepdims=True)) for a in (arm, reference))
    own = arm_value(reference)
    pair, over = compare_pair(arm, reference).difference, compare_pair(*means).difference
    return (
        own.low <= world.accuracy <= own.high,
        pair.low <= EFFECT <= pair.high,
        over.low <= EFFECT <= over.high,
    )


def bootstrap_holds(arm: Outcomes, reference: Outcomes, rng: np.random.Generator) -> bool:
    """Owen 2007: examples and the seeds of each arm drawn with replacement, percentiles taken."""
    num_examples = arm.values.shape[1]
    examples = rng.multinomial(num_examples, np.full(num_examples, 1 / num_examples), NUM_DRAWS)
    means = []
    for a in (arm, reference):
        k = a.num_seeds
        seeds = rng.multinomial(k, np.full(k, 1 / k), NUM_DRAWS)
        means.append(((examples @ a.values.T) * seeds).sum(axis=1) / (k * num_examples))
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return bool(low <= EFFECT <= high)


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
    started = time.process_time()
    first = trainings(range(NUM_SEEDS))
    again = trainings(range(NUM_SEEDS, 2 * NUM_SEEDS))
    quarter = trainings(range(NUM_SEEDS, 2 * NUM_SEEDS), STEPS // 4)
    seconds = time.process_time() - started
    text = [
        f"{3 * NUM_SEEDS} trainings in {seconds:.0f} s of one core. Accuracy on {NUM_TEST:,} examples, "
        f"mean and standard deviation over {NUM_SEEDS} seeds: "
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


CAPTIONS = {
    coverage: (
        "**Intervals**: how often those of 95 % hold the true value, 1,000 comparisons a row. The\n"
        "bootstrap draws seeds and examples (200 comparisons); the last column takes the trainings at\n"
        "hand for all there are."
    ),
    same_arm: (
        "**An arm against itself**, 80 % right, seeds 1.9 points apart, 1,000 comparisons a row."
    ),
    effects: (
        "**An effect of the stated size**, 60 % right, seeds 2.7 points apart, 1,000 a row:\n"
        "how often it is found."
    ),
    real: (
        "**Real trainings**: DoRA on a tiny Llama, 20 seeds an arm, compared in groups without a\n"
        "common training or a common test example, 200 examples each. `pytest -m slow\n"
        "tests/compare/test_same_arm.py` holds them to their bounds."
    ),
}


if __name__ == "__main__":
    main()

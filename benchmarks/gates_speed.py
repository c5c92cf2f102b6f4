"""What does each data gate cost, in microseconds of one core per text?

    python benchmarks/gates_speed.py FOLDER [--million]

FOLDER holds the files that `gates_found.TEXTS` names. Gates take turns over the same batches; the
median batch counts, with the 20th and 80th percentile. `--million` groups a million generated texts
too, and says what that took in time and memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # for `python benchmarks/gates_speed.py`

import numpy as np

from benchmarks.gates_found import clustered_by_datasketch, read_texts
from doratune.data.gates import (
    encoding,
    language,
    leakage,
    near_duplicates,
    personal_data,
    relevance,
)
from doratune.data.gates.words import hash_words

BATCH = 500
MILLION = 1_000_000


def main() -> None:
    """Prints the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--million", action="store_true")
    args = parser.parse_args()
    texts = [text for part in read_texts(args.folder, 2000).values() for text in part]
    random.Random(0).shuffle(texts)
    batches = [texts[begin : begin + BATCH] for begin in range(0, len(texts) - BATCH, BATCH)]
    actions = gates(texts)
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for batch in batches:
        for name, action in actions.items():
            started = time.process_time()
            action(batch)
            seconds[name].append(time.process_time() - started)
    characters = sum(map(len, texts)) / len(texts)
    print(f"{len(texts):,} texts of {characters:.0f} characters in the mean\n")
    print("| gate | µs per text (20th to 80th percentile) |")
    print("|---|---|")
    for name, values in seconds.items():
        low, middle, high = np.quantile(values, [0.2, 0.5, 0.8]) / BATCH * 1e6
        print(f"| {name} | {middle:.1f} ({low:.1f} to {high:.1f}) |")
    if args.million:
        group_a_million()


def gates(texts: list[str]) -> dict[str, Callable[[list[str]], object]]:
    """What is timed, by name. Libraries that load slowly are called once."""
    table = leakage.Table.build([hash_words(texts[::10])], 13)
    counts = relevance.counts(texts)
    scorer = relevance.Scorer(counts, counts)
    detector = language.Detector()
    personal_data.find("+49 30 901820")
    actions: dict[str, Callable[[list[str]], object]] = {
        "encoding": lambda batch: [encoding.kinds(text) for text in batch],
        "personal data": lambda batch: [personal_data.find(text) for text in batch],
        "language": detector.detect,
        "near duplicates, sketch": near_duplicates.sketch,
        "leakage": lambda batch: table.hits(hash_words(batch)),
        "relevance": lambda batch: (relevance.counts(batch), scorer.scores(batch)),
    }
    if importlib.util.find_spec("datasketch"):
        actions["peer: datasketch, sketch and LSH"] = partial(
            clustered_by_datasketch, threshold=0.8
        )
    return actions


def group_a_million() -> None:
    """Texts of 35 words, one in 20 with one word changed from the one before."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sketches.npy"
        shape = (MILLION, near_duplicates.WIDTH)
        file = np.lib.format.open_memmap(path, "w+", np.uint16, shape)
        sketching = 0.0
        for begin in range(0, MILLION, 10_000):
            words = (rng.random((10_000, 35)) ** 3 * 50_000).astype(int)
            copies = np.flatnonzero(rng.random(10_000) < 0.05)[1:]
            words[copies] = words[copies - 1]
            words[copies, 17] = -1
            texts = [" ".join(f"w{word}" for word in row) for row in words.tolist()]
            started = time.process_time()
            file[begin : begin + 10_000] = near_duplicates.sketch(texts)
            sketching += time.process_time() - started
        del file
        sketches = np.load(path, mmap_mode="r")
        started = time.process_time()
        first = near_duplicates.clusters(sketches, 0.8)
        grouping = time.process_time() - started
    found = int((first != np.arange(MILLION)).sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"\n{MILLION:,} texts: sketches {sketching:.0f} s of one core, groups {grouping:.0f} s, peak "
        f"{peak:,.0f} MB with the mapped file of 256 MB; {found:,} grouped with an earlier one"
    )


if __name__ == "__main__":
    main()

"""What do the data gates find of what was planted in real texts, and what else?

    python benchmarks/gates_found.py FOLDER

FOLDER holds gzipped JSON Lines, those that `TEXTS` names. Nothing is written there: copies are made
in memory. Recall is the share of what should be found that was; precision is the share of what was
found that should be. What the texts hold by themselves is part of the truth where that can be
computed in another way (all pairs, sets of words). Where datasketch is installed, it is a peer.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # for `python benchmarks/gates_found.py`

import numpy as np
from numpy.typing import NDArray

from benchmarks.parts import planted
from doratune.data.gates import (
    conflicts,
    duplicates,
    encoding,
    language,
    leakage,
    near_duplicates,
    personal_data,
    relevance,
)
from doratune.data.gates.words import hash_words

TEXTS = {
    "legal": "legal/cuad_clauses.train.jsonl.gz",
    "instruct": "instruct/alpaca_gpteacher_5k.jsonl.gz",
    "chat": "instruct/chat_sgd_5k.jsonl.gz",
    "preference": "preference/llmbar.jsonl.gz",
    "commonsense": "commonsense/ARC-Easy.test.jsonl.gz",
}
Texts = dict[str, list[str]]
Mask = NDArray[np.bool_]


class Score(NamedTuple):
    """How well one gate did on one kind of plant."""

    gate: str
    what: str
    data: str
    wanted: int
    """Things that should be found."""
    found: int
    right: int
    """Things found that should be."""

    @property
    def precision(self) -> float:
        """Share of what was found that should be."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of what should be found that was."""
        return self.right / self.wanted if self.wanted else 1.0


def read_texts(folder: Path, number: int) -> Texts:
    """The first texts of each file."""
    texts: Texts = {}
    for name, file in TEXTS.items():
        with gzip.open(folder / file, "rt", encoding="utf-8") as lines:
            texts[name] = [
                _said(json.loads(line)) for line, _ in zip(lines, range(number), strict=False)
            ]
    return texts


def _said(row: dict[str, Any]) -> str:
    if "messages" in row:
        return "\n".join(turn["content"] for turn in row["messages"])
    names = ("text", "prompt", "instruction", "input", "output", "chosen", "rejected")
    return "\n".join(row[name] for name in names if row.get(name))


def _score(gate: str, what: str, data: str, wanted: Mask, found: Mask) -> Score:
    return Score(gate, what, data, int(wanted.sum()), int(found.sum()), int((wanted & found).sum()))


def _long(texts: list[str]) -> list[str]:
    """Those with 20 words or more: of a shorter one, a word is more than a fifth of the grams."""
    return [text for text in texts if len(text.split()) >= 20]


def near_duplicate_scores(texts: Texts, threshold: float = 0.8) -> Iterator[Score]:
    """Texts that have a near copy, against all pairs of exact similarity.

    "not close to the threshold" leaves the texts out whose nearest neighbour is within 0.05 of it,
    where a sketch of 128 numbers cannot tell.
    """
    for name, originals in texts.items():
        hand = random.Random(0)
        chosen = _long(originals)
        every = list(originals)
        for place, text in enumerate(chosen):
            every.append(planted.REWRITINGS[place % len(planted.REWRITINGS)](text, hand))
        hand.shuffle(every)
        pairs = planted.similar_pairs(every, threshold - 0.05)
        similar = {pair: s for pair, s in pairs.items() if s >= threshold - 1e-9}
        clear = {pair: s for pair, s in pairs.items() if s >= threshold + 0.05}
        wanted, surely = (planted.in_pairs(p, len(every)) for p in (similar, clear))
        possible = planted.in_pairs(pairs, len(every))
        found = {"doratune": _clustered(every, threshold)}
        if importlib.util.find_spec("datasketch"):
            found["datasketch"] = clustered_by_datasketch(every, threshold)
        for who, mask in found.items():
            yield _score("near duplicates", who, name, wanted, mask)
            decided = surely | ~possible
            yield _score(
                "near duplicates", f"{who}, not close to the threshold", name,
                surely[decided], mask[decided],
            )  # fmt: skip


def _clustered(texts: list[str], threshold: float) -> Mask:
    first = near_duplicates.clusters(near_duplicates.sketch(texts), threshold)
    return np.bincount(first, minlength=len(texts))[first] > 1


def clustered_by_datasketch(texts: list[str], threshold: float) -> Mask:
    """The peer, in the way its documentation shows: LSH, then the estimate of each candidate."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold, num_perm=near_duplicates.WIDTH)
    sketches = []
    for number, text in enumerate(texts):
        sketch = MinHash(near_duplicates.WIDTH)
        sketch.update_batch([" ".join(gram).encode() for gram in planted.grams(text, 3)])
        index.insert(number, sketch)
        sketches.append(sketch)
    found = np.zeros(len(texts), np.bool_)
    for number, sketch in enumerate(sketches):
        near = [n for n in index.query(sketch) if n != number]
        found[number] = any(sketch.jaccard(sketches[n]) >= threshold for n in near)
    return found


def duplicate_scores(texts: Texts) -> Iterator[Score]:
    """Copies, and inputs whose copy has another label; the truth is counted in dictionaries."""
    for name, originals in texts.items():
        hand = random.Random(0)
        every = [*originals, *hand.choices(originals, k=len(originals) // 10)]
        answers = np.array([hand.randrange(2) for _ in every])
        hashes = np.array([hash(text) for text in every]).view(np.uint64)
        seen: set[str] = set()
        copies = np.array([text in seen or bool(seen.add(text)) for text in every])
        yield _score("duplicates", "copies", name, copies, duplicates.find(hashes))
        labels: dict[str, set[int]] = {}
        for text, answer in zip(every, answers.tolist(), strict=True):
            labels.setdefault(text, set()).add(answer)
        wanted = np.array([len(labels[text]) > 1 for text in every])
        yield _score(
            "conflicts", "copies, labels drawn", name, wanted, conflicts.find(hashes, answers)
        )


def leakage_scores(texts: Texts, n: int = 13) -> Iterator[Score]:
    """Held-out texts leaked into training texts, against the same rule in lists and counters."""
    for name, every in texts.items():
        hand = random.Random(0)
        held_out, train = every[::5], [text for i, text in enumerate(every) if i % 5]
        leaks = [text for text in held_out if len(text.split()) >= 2 * n]
        for i, text in enumerate(leaks):
            words = text.split()
            quotation = " ".join(words[: 2 * n])
            rewritten = planted.case_and_punctuation_changed(quotation, hand)
            train[i] = planted.inserted(train[i], [text, quotation, rewritten][i % 3], hand)
        leaks_into = planted.held_out_runs(held_out, n)
        wanted = np.array([leaks_into(text) for text in train])
        table = leakage.Table.build([hash_words(held_out)], n)
        found = table.hits(hash_words(train)) > 0
        yield _score("leakage", "texts and quotations", name, wanted, found)
        leaked = np.arange(len(train)) < len(leaks)
        yield _score("leakage", "planted ones alone", name, leaked, found & leaked)


def _every_tenth(
    texts: list[str],
    makers: dict[str, Callable[[random.Random], str]],
    kinds: Callable[[str], list[str]],
) -> tuple[Mask, Mask]:
    """Where something was planted, each kind in turn, and where it was found under its name.

    Texts in which the gate finds something as they are have been read by people (docs/data.md), and
    are left out here.
    """
    hand = random.Random(0)
    texts = [text for text in texts if not kinds(text)]
    wanted = np.arange(len(texts)) % 10 == 0
    found = wanted.copy()
    for place, text in enumerate(texts):
        kind = list(makers)[place // 10 % len(makers)]
        if wanted[place]:
            found[place] = kind in kinds(planted.inserted(text, makers[kind](hand), hand))
        else:
            harmless = planted.inserted(text, hand.choice(planted.HARMLESS)(hand), hand)
            found[place] = bool(kinds(harmless))
    return wanted, found


def encoding_scores(texts: Texts) -> Iterator[Score]:
    """Broken words in every tenth text."""
    for name, every in texts.items():
        wanted, found = _every_tenth(every, planted.BROKEN, encoding.kinds)
        yield _score("encoding", "broken words", name, wanted, found)


def personal_data_scores(texts: Texts) -> Iterator[Score]:
    """Personal data in every tenth text, and something that looks like it in all others."""

    def kinds(text: str) -> list[str]:
        return [found.kind for found in personal_data.find(text)]

    for name, every in texts.items():
        wanted, found = _every_tenth(every, planted.PERSONAL, kinds)
        yield _score("personal data", "all kinds, among look-alikes", name, wanted, found)


def language_scores(texts: Texts) -> Iterator[Score]:
    """Sentences in nine languages among English texts."""
    foreign = [text for sentences in planted.SENTENCES.values() for text in sentences]
    for name, originals in texts.items():
        every = [*originals, *foreign]
        wanted = np.arange(len(every)) >= len(originals)
        found = np.array([code not in (None, "en") for code in language.Detector().detect(every)])
        yield _score("language", "36 foreign sentences", name, wanted, found)


def relevance_scores(texts: Texts) -> Iterator[Score]:
    """A tenth of other texts among legal ones, seeded with legal ones."""
    legal = [text for text in texts["legal"] if len(text.split()) >= 10]
    seeds, rest = legal[::2], legal[1::2]
    for name in sorted(texts.keys() - {"legal"}):
        others = texts[name][: len(rest) // 10]
        every = [*rest, *others]
        scorer = relevance.Scorer(relevance.counts(seeds), relevance.counts(every))
        lowest = np.argsort(scorer.scores(every))[: len(others)]
        wanted = np.arange(len(every)) >= len(rest)
        found = np.isin(np.arange(len(every)), lowest)
        yield _score("relevance", "the least alike among clauses", name, wanted, found)


Question = Callable[[Texts], Iterator[Score]]
QUESTIONS: tuple[Question, ...] = (
    encoding_scores,
    duplicate_scores,
    near_duplicate_scores,
    language_scores,
    personal_data_scores,
    leakage_scores,
    relevance_scores,
)


def main() -> None:
    """Prints the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=5000, help="texts of each file")
    args = parser.parse_args()
    texts = read_texts(args.folder, args.number)
    print("| gate | planted | data | wanted | found | precision | recall |")
    print("|---|---|---|---|---|---|---|")
    for scores in QUESTIONS:
        for score in scores(texts):
            gate, what, data, wanted, found, _ = score
            print(
                f"| {gate} | {what} | {data} | {wanted:,} | {found:,} "
                f"| {score.precision:.3f} | {score.recall:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

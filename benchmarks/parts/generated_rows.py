"""A file of short instruction examples, any number of them, with planted faults.

Texts are chains of words in which each follows another as it does in Python's own documentation
(`pydoc_data.topics`): they look like English to every gate, repeat few runs of words, and need no file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BATCH = 20_000
_PROMPT, _ANSWER = (8, 24), (6, 30)
"""Words of prompt and answer, from and to."""

DUPLICATE, NEAR, PERSONAL, BROKEN = 50, 40, 100, 1000
"""One row in so many repeats the row before it, nearly repeats it, has an e-mail address, or a control
character."""


class Planted(NamedTuple):
    """Line numbers of what was planted, from 1."""

    duplicates: list[int]
    near_duplicates: list[int]
    personal: list[int]
    broken: list[int]


def write_rows(path: Path, number: int, seed: int = 0) -> Planted:
    """Writes ``number`` rows as JSON Lines with ``instruction`` and ``output``."""
    chain, rng = _Chain(), np.random.default_rng(seed)
    planted = Planted([], [], [], [])
    before = ("", "")
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, number, _BATCH):
            size = min(_BATCH, number - start)
            prompts = chain.texts(rng.integers(*_PROMPT, size), rng)
            answers = chain.texts(rng.integers(*_ANSWER, size), rng)
            for line, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start + 1):
                row = (prompt.capitalize() + "?", answer.capitalize() + ".")
                if line % DUPLICATE == 0:
                    row = before
                    planted.duplicates.append(line)
                elif line % NEAR == 1 and line > 1:
                    row = (before[0], before[1] + " Indeed")
                    planted.near_duplicates.append(line)
                elif line % PERSONAL == 2:
                    row = (row[0], f"{row[1]} Write to jane.doe{line}@acme-corp.com.")
                    planted.personal.append(line)
                elif line % BROKEN == 3:
                    row = (row[0] + "\x07", row[1])
                    planted.broken.append(line)
                before = row
                file.write(json.dumps({"instruction": row[0], "output": row[1]}) + "\n")
    return planted


class _Chain:
    """Words, and what follows each of them."""

    def __init__(self) -> None:
        text = " ".join(topics[name] for name in sorted(topics))
        words = re.findall(r"[a-z]{2,}|\b[ai]\b", text.lower())
        self.words, codes = np.unique(words, return_inverse=True)
        self.words = self.words.astype(object)
        order = np.argsort(codes[:-1], kind="stable")
        self._next = codes[1:][order]
        counts = np.bincount(codes[:-1], minlength=len(self.words))
        self._counts = np.maximum(counts, 1)
        self._starts = np.minimum(np.cumsum(counts) - counts, len(self._next) - 1)

    def texts(self, lengths: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
        """A text for each number of words."""
        current = rng.integers(0, len(self.words), len(lengths))
        steps = []
        for _ in range(int(lengths.max())):
            steps.append(current)
            pick = (rng.random(len(current)) * self._counts[current]).astype(np.int64)
            current = self._next[self._starts[current] + pick]
        words = self.words[np.stack(steps, axis=1)]
        return [" ".join(row[:length]) for row, length in zip(words, lengths, strict=True)]

"""The files of the data stage, written part after part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from doratune.data.fingerprint import BYTES, Fingerprint, fingerprint
from doratune.data.labels import count_labels
from doratune.data.passes.store import FINE, Store, read_batch
from doratune.data.review import choose_sample
from doratune.data.sieve import Sieve
from doratune.recipe.gates import ReviewGate
from doratune.record.files import replacing, write_jsonl
from doratune.record.review import ReviewItem
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import SPLITS, Example, Split, SplitSummary


class Kept(NamedTuple):
    """What is to be written of the rows that are left."""

    splits: NDArray[np.int8]
    """Index into `SPLITS` for each row, -1 for those that are left out."""
    copies: NDArray[np.int64]
    """How often each is written."""
    rendered: Sequence[Path]
    """The examples of each part."""


def write_examples(run: RunFolder, store: Store, kept: Kept) -> dict[Split | None, Fingerprint]:
    """Writes the splits.

    Returns:
        The fingerprint of each split, and under None that of all together.
    """
    digests: dict[Split, list[NDArray[np.uint8]]] = {split: [] for split in SPLITS}
    with ExitStack() as stack:
        files: dict[Split, BinaryIO] = {}
        for split in SPLITS:
            path = stack.enter_context(replacing(run.examples(split)))
            files[split] = stack.enter_context(path.open("wb"))
        for (_, rows), path in zip(store.parts(), kept.rendered, strict=True):
            batch = read_batch(path)
            every = rows.start + batch["index"].to_numpy()
            for number, split in enumerate(SPLITS):
                mine = np.flatnonzero(kept.splits[every] == number)
                taken = np.repeat(mine, kept.copies[every[mine]])
                examples = batch.select(["line", "digest"]).take(pa.array(taken))
                files[split].write(_bytes(examples["line"]))
                raw = np.frombuffer(examples["digest"].buffers()[1], np.uint8)
                digests[split].append(raw[: len(taken) * BYTES].reshape(-1, BYTES))
    found: dict[Split | None, Fingerprint] = {s: fingerprint(d) for s, d in digests.items()}
    found[None] = fingerprint(part for split in SPLITS for part in digests[split])
    return found


def write_dropped(path: Path, store: Store, sieve: Sieve) -> None:
    """Writes every row that was left out, with gate, reason and place."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for number, rows in store.parts():
            reasons = sieve.reason_of[rows]
            indices = np.flatnonzero(reasons >= 0)
            if not len(indices):
                continue
            batch = read_batch(store.part(number)).take(pa.array(indices))
            columns = (batch[name].to_pylist() for name in ("place", "row", "state", "problem"))
            for code, place, row, state, problem in zip(
                reasons[indices].tolist(), *columns, strict=True
            ):
                gate, reason = sieve.reasons[code]
                if state != FINE and problem:
                    reason = f"{reason}: {problem}"
                head = json.dumps(
                    {"gate": gate, "reason": reason, "place": place}, ensure_ascii=False
                )
                file.write(f'{head[:-1]}, "row": {row}}}\n')


def write_review(
    path: Path,
    store: Store,
    kept: Kept,
    names: Sequence[str | None],
    codes: NDArray[np.int32],
    gate: ReviewGate,
    seed: int,
) -> None:
    """Writes the review sample.

    Args:
        path: Where to.
        store: Has the parts.
        kept: The examples to choose from.
        names: Labels by number, and None at the end.
        codes: Number of each row's label, -1 for none.
        gate: Says how many.
        seed: Another seed gives another sample.
    """
    ids: list[str] = []
    owners: list[NDArray[np.int64]] = []
    for (_, rows), part in zip(store.parts(), kept.rendered, strict=True):
        batch = read_batch(part)
        every = rows.start + batch["index"].to_numpy()
        mine = np.flatnonzero(kept.splits[every] >= 0)
        ids += batch["id"].take(pa.array(mine)).to_pylist()
        owners.append(every[mine])
    order = np.concatenate([np.empty(0, np.int64), *owners])
    labels = [names[code] for code in codes[order].tolist()]
    chosen = order[np.array(choose_sample(ids, labels, gate, seed), np.int64)]
    write_jsonl(path, (item.model_dump() for item in _items(chosen, store, kept)))


def summarise(
    kept: Kept,
    split: int,
    tokens: NDArray[np.int32],
    codes: NDArray[np.int32],
    names: list[str],
    prints: Fingerprint,
) -> SplitSummary:
    """Figures of one split, with the digests that writing it gave."""
    mine = np.flatnonzero(kept.splits == split)
    rows = np.repeat(mine, kept.copies[mine])
    return SplitSummary(
        num_examples=len(rows),
        num_tokens=int(tokens[rows].sum(dtype=np.int64)),
        max_tokens=int(tokens[rows].max(initial=0)),
        label_counts=dict(sorted(count_labels(codes[rows], names).items())),
        digest=prints.digest,
        ordered_digest=prints.ordered_digest,
    )


def _items(chosen: NDArray[np.int64], store: Store, kept: Kept) -> Iterator[ReviewItem]:
    for row in chosen.tolist():
        number = int(np.searchsorted(store.starts, row, "right")) - 1
        batch = read_batch(kept.rendered[number])
        index = np.searchsorted(batch["index"].to_numpy(), row - store.starts[number])
        example = Example.model_validate_json(batch["line"][int(index)].as_py())
        yield ReviewItem.of(example, SPLITS[kept.splits[row]])


def _bytes(lines: pa.LargeStringArray) -> memoryview:
    """The lines one after the other, as they lie in memory."""
    _, offsets, text = lines.buffers()
    if not len(lines):
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int64)
    return memoryview(text)[ends[lines.offset] : ends[lines.offset + len(lines)]]

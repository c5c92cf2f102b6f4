"""The second pass, in workers: drafts become examples, are measured in tokens, and written down."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from doratune.data.fingerprint import BYTES, example_digest
from doratune.data.formats import Draft, Format, to_example
from doratune.data.gates.words import hash_words
from doratune.data.passes.pickled import saved_tokenizer
from doratune.data.passes.store import Store, drafts, read_batch, write_batch
from doratune.data.passes.workers import Workers
from doratune.data.render import Renderer
from doratune.data.render.spoken import Tools
from doratune.errors import DataError
from doratune.progress import track
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Example, Message

EXAMPLES = pa.schema(
    {
        "index": pa.int32(),  # within the part
        "id": pa.string(),
        "line": pa.large_string(),  # of data/<split>.jsonl, with its line end
        "tokens": pa.int32(),
        "digest": pa.binary(BYTES),
        "words": pa.list_(pa.uint64()),  # hashed, for the gate for leakage
    }
)


class Settings(NamedTuple):
    """What examples depend on besides their drafts."""

    section: DataSection
    form: Format
    labels: list[str]
    tokenizer: Path
    """Written by `save_tokenizer`."""


def render_all(
    left: NDArray[np.bool_], settings: Settings, store: Store, workers: Workers
) -> tuple[NDArray[np.int32], list[Path]]:
    """Makes the examples of all rows that are left.

    Returns:
        The tokens of each row, 0 for those that are not left, and the examples of each part.

    Raises:
        DataError: The template cannot render an example.
    """
    parts = [rows for _, rows in store.parts()]
    indices = [np.flatnonzero(left[rows]) for rows in parts]
    paths = [store.folder / f"examples-{number:06}.arrow" for number in range(len(parts))]
    tasks = (
        (store.part(number), chosen, settings, path)
        for number, (chosen, path) in enumerate(zip(indices, paths, strict=True))
    )
    tokens = np.zeros(len(left), np.int32)
    lengths = track(workers.map(render, tasks), "Rendering", len(parts))
    for rows, chosen, part in zip(parts, indices, lengths, strict=True):
        tokens[rows.start + chosen] = part
    return tokens, paths


def render(
    part: Path, indices: NDArray[np.int64], settings: Settings, path: Path
) -> NDArray[np.int32]:
    """Makes the examples of some rows of a part, unless they are there.

    Returns:
        Their lengths in tokens.

    Raises:
        DataError: The template cannot render an example.
    """
    if path.exists():
        there = read_batch(path)
        if np.array_equal(there["index"].to_numpy(), indices):
            return there["tokens"].to_numpy()
    made = drafts(read_batch(part).take(pa.array(indices)))
    examples = [to_example(d, settings.form, settings.section, settings.labels) for d in made]
    digests = b"".join(map(example_digest, examples))
    tokens = np.array(_lengths(examples, settings), np.int32)
    columns = [
        pa.array(indices, pa.int32()),
        pa.array([example.id for example in examples], pa.string()),
        pa.array([example.model_dump_json() + "\n" for example in examples], pa.large_string()),
        pa.array(tokens),
        pa.Array.from_buffers(pa.binary(BYTES), len(made), [None, pa.py_buffer(digests)]),
        _words(made, settings.section),
    ]
    write_batch(path, pa.record_batch(columns, schema=EXAMPLES))
    return tokens


def _lengths(examples: list[Example], settings: Settings) -> list[int]:
    render = _renderer(settings.tokenizer, settings.section.template)
    talks = [_talks(example) for example in examples]
    try:
        lengths = iter(render.lengths([talk for both in talks for talk in both]))
    except DataError:
        for example, both in zip(examples, talks, strict=True):
            try:
                for messages, tools in both:
                    render.example(messages, tools)
            except DataError as error:
                raise DataError(f"{example.place}: {error}") from error
        raise
    return [max(next(lengths) for _ in both) for both in talks]


def _talks(example: Example) -> list[tuple[list[Message], Tools]]:
    """The conversation and, for preference data, the one with the rejected answer."""
    talks = [(example.messages, example.tools)]
    if example.rejected is not None:
        talks.append(([*example.prompt, *example.rejected], example.tools))
    return talks


@lru_cache(maxsize=1)
def _renderer(tokenizer: Path, template: Literal["model", "alpaca"]) -> Renderer:
    return Renderer(saved_tokenizer(tokenizer), template)


def _words(made: list[Draft], section: DataSection) -> pa.ListArray:
    if section.gates.leakage.action == "off":
        return pa.nulls(len(made), EXAMPLES.field("words").type)
    hashes = hash_words([draft.spoken for draft in made])
    return pa.ListArray.from_arrays(
        pa.array(hashes.offsets, pa.int32()), pa.array(hashes.values, pa.uint64())
    )

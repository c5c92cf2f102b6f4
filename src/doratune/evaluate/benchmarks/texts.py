"""Perplexity of texts that have nothing to do with the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from doratune.data.formats import detect_format, to_draft
from doratune.data.read import Row, refuse
from doratune.errors import DataError
from doratune.evaluate.benchmarks.local_data import read_source
from doratune.evaluate.metrics.intervals import Resamples
from doratune.recipe.schema import DataSection
from doratune.record.benchmarks import OutOfDomain, TextSample
from doratune.record.evaluation import MODELS, Model
from doratune.record.files import digest_bytes, digest_json

_LOOKED_AT = 100
"""Rows by which the format is recognised."""


class Text(NamedTuple):
    """One text to read."""

    place: str
    content: str
    digest: str


def read_texts(source: str, most: int | None, seed: int) -> list[Text]:
    """The texts of a source: its column ``text``, or else all turns of its examples.

    Args:
        source: As in ``data.source``.
        most: How many are taken at most, chosen by hash; all when None.
        seed: Decides which.

    Raises:
        DataError: The source cannot be read, or holds no text.
    """
    rows = read_source(source)
    if all(isinstance(row.content.get("text"), str) for row in rows):
        found = [_text(row, row.content["text"]) for row in rows]
    else:
        found = _spoken(rows, source)
    found = [text for text in found if text.content.strip()]
    if not found:
        raise DataError(f"{source} (eval.benchmarks.texts) holds no text; at least one is needed.")
    keys = [digest_bytes(f"{seed}:{text.digest}".encode()) for text in found]
    chosen = sorted(range(len(found)), key=lambda at: (keys[at], at))[:most]
    return [found[at] for at in sorted(chosen)]


def _spoken(rows: Sequence[Row], source: str) -> list[Text]:
    section = DataSection(source=source)
    form, _ = detect_format(rows[:_LOOKED_AT], section)
    texts: list[Text] = []
    problems: list[str] = []
    for row in rows:
        try:
            draft = to_draft(row, form, section)
        except DataError as error:
            problems.append(f"{row.place}: {error}")
            continue
        if draft is not None:
            texts.append(_text(row, draft.text))
    refuse(problems, source)
    return texts


def _text(row: Row, content: str) -> Text:
    return Text(row.place, content, digest_bytes(content.encode()))


def out_of_domain(source: str, samples: Sequence[TextSample], seed: int) -> OutOfDomain:
    """Perplexity over all tokens of all texts; the ratio is of the same texts.

    Args:
        source: As in the recipe.
        samples: Of both models on the same texts, in any order.
        seed: Of the bootstrap over texts.
    """
    by: dict[Model, list[TextSample]] = {
        model: sorted((s for s in samples if s.model == model), key=lambda s: s.place)
        for model in MODELS
    }
    tokens = np.array([sample.num_tokens for sample in by["base"]], float)
    nll = {model: -np.array([sample.logprob for sample in own]) for model, own in by.items()}
    resamples = Resamples(len(tokens), seed)
    totals = resamples.sums(tokens)
    per_token = {model: resamples.sums(nll[model]) / totals for model in MODELS}
    return OutOfDomain(
        source=source,
        digest=digest_json(sorted(sample.digest for sample in by["base"])),
        num_texts=len(tokens),
        num_tokens=int(tokens.sum()),
        base=resamples.interval(np.exp(per_token["base"])),
        tuned=resamples.interval(np.exp(per_token["tuned"])),
        ratio=resamples.interval(np.exp(per_token["tuned"] - per_token["base"])),
    )

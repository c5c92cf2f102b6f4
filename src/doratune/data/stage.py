"""The data stage: source files to ``data/*.jsonl`` and ``data.json``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pydantic import ValidationError

from doratune import __version__
from doratune.base import fingerprint, load_tokenizer, resolve_base
from doratune.data.passes.compare import digest_texts
from doratune.data.passes.workers import Workers
from doratune.data.prepare import Preparation
from doratune.data.read import Source, open_source
from doratune.data.render import Renderer
from doratune.errors import ConfigError, DataError, StorageError
from doratune.progress import console
from doratune.recipe.schema import Recipe, SourceSection
from doratune.record.files import digest_file, digest_json
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import SPLITS, Example, Split

MAX_WORKERS = 8

# Whatever of a checkpoint decides how text becomes token ids.
_TOKENIZER_FILES = ("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json")


def prepare_data(run: RunFolder, recipe: Recipe, num_workers: int | None = None) -> bool:
    """Makes the three splits, unless they are up to date.

    Writes ``data/{train,validation,test}.jsonl``, ``data/dropped.jsonl`` (every row that was left
    out, with gate, reason and place), ``data/review.jsonl`` and ``data.json``. What is finished of a
    run that was interrupted is used by the next one with the same inputs.

    Args:
        run: Where to.
        recipe: Says what to do.
        num_workers: Processes, about 150 MB each; by default as many as there are cores, 8 at most.

    Returns:
        Whether anything was done.

    Raises:
        DataError: A source cannot be used as it is; nothing has been written then.
        ConfigError: The base's tokenizer cannot render the recipe's template.
        ModelError: The base cannot be had.
    """
    work = run.path / "data" / ".work"
    work.mkdir(parents=True, exist_ok=True)
    try:
        done = _prepare(run, recipe, work, num_workers or min(os.cpu_count() or 1, MAX_WORKERS))
    except (ConfigError, DataError):
        # Other data or another recipe is needed, for which what is there is of no use.
        shutil.rmtree(work)
        raise
    shutil.rmtree(work)
    return done


def _prepare(run: RunFolder, recipe: Recipe, work: Path, num_workers: int) -> bool:
    section = recipe.data
    base = resolve_base(recipe.model.source, recipe.model.revision)
    named = list(section.sources)
    if section.test_source is not None:
        named.append(SourceSection(path=section.test_source))
    sources = [open_source(one, work) for one in named]
    digests = [source.digest() for source in sources]
    compared = [*section.gates.relevance.seeds, *section.gates.leakage.evaluation_sets]
    inputs = {
        "sources": digest_json(digests),
        "compared": digest_json([digest_texts(name, work) for name in compared]),
        "recipe": digest_json({"data": section.model_dump(mode="json"), "seed": recipe.seed}),
        "tokenizer": _tokenizer_digest(base),
    }
    if section.gates.quality.action != "off":
        inputs["base"] = fingerprint(base)

    def prepare() -> None:
        parts = _parts(work / "parts", digest_json([inputs, __version__]))
        with Workers(num_workers) as workers:
            _announce(sources, workers, resumed=any(parts.iterdir()))
            renderer = Renderer(load_tokenizer(base), section.template)
            Preparation(recipe, base, renderer, sources, parts, workers).run(run, digests)

    outputs = [
        *(run.examples(split) for split in SPLITS),
        run.dropped,
        run.review_sample,
        run.data,
    ]
    return run.run_stage("data", inputs, outputs, prepare)


def _parts(folder: Path, digest: str) -> Path:
    """The folder of parts made of these inputs; parts made of others are removed."""
    parts = folder / digest[:16]
    parts.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other != parts:
            shutil.rmtree(other)
    return parts


def read_examples(run: RunFolder, split: Split) -> list[Example]:
    """Reads the examples of one split of a run.

    Raises:
        StorageError: The data stage has not run, or its file was changed.
    """
    path = run.examples(split)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}. Run `doratune data` first."
        ) from error
    examples = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            examples.append(Example.model_validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise StorageError(
                f"{path}:{number} is not an example: {problem}. Run `doratune data` again."
            ) from error
    return examples


def _announce(sources: list[Source], workers: Workers, resumed: bool) -> None:
    """Says beforehand what will be done."""
    told = []
    for source in sources:
        path = Path(source.path)
        size = f", {path.stat().st_size / 1e6:,.1f} MB" if path.is_file() else ""
        weight = f", weight {source.weight:g}" if source.weight != 1 else ""
        told.append(f"{source.path} ({source.kind}{size}{weight})")
    console.print(
        f"Reading {', '.join(told)} with {workers.number} processes"
        + (", going on where an earlier run was interrupted" if resumed else ""),
        markup=False,
        highlight=False,
    )


def _tokenizer_digest(base: Path) -> str:
    files = sorted({path for pattern in _TOKENIZER_FILES for path in base.glob(pattern)})
    return digest_json([[path.name, digest_file(path)] for path in files if path.is_file()])

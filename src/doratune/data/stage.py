"""The data stage: source files to ``data/*.jsonl`` and ``data.json``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from doratune.base import load_tokenizer, resolve_base
from doratune.data.clauses import clauses
from doratune.data.formats import Draft, Format, detect_format, read_drafts, to_example
from doratune.data.labels import Sieve, check_labels, closed_labels
from doratune.data.load import Row, load_rows
from doratune.data.render import Renderer
from doratune.data.split import check_splits, drop_duplicates, sample, split_of
from doratune.errors import DataError, StorageError
from doratune.progress import track
from doratune.recipe.schema import DataSection, Recipe
from doratune.record.files import digest_file, digest_json, write_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import SPLITS, DataFile, Example, SourceRecord, Split, SplitSummary

_BUILTIN = {"builtin:clauses": clauses}

# Whatever of a checkpoint decides how text becomes token ids.
_TOKENIZER_FILES = ("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json")


def prepare_data(run: RunFolder, recipe: Recipe) -> bool:
    """Makes the three splits, unless they are up to date.

    Writes ``data/{train,validation,test}.jsonl``, ``data/dropped.jsonl`` (every row that was left
    out, with reason and place) and ``data.json``.

    Returns:
        Whether anything was done.

    Raises:
        DataError: A source cannot be used as it is; nothing has been written then.
        ConfigError: The base's tokenizer cannot render the recipe's template.
        ModelError: The base cannot be had.
    """
    section = recipe.data
    base = resolve_base(recipe.model.source, recipe.model.revision)
    sources = [_Source.read(source.path) for source in section.sources]
    if section.test_source is not None:
        sources.append(_Source.read(section.test_source))
    inputs = {
        "sources": digest_json([source.digest for source in sources]),
        "recipe": digest_json({"data": section.model_dump(mode="json"), "seed": recipe.seed}),
        "tokenizer": _tokenizer_digest(base),
    }

    def work() -> None:
        renderer = Renderer(load_tokenizer(base), section.template)
        _write(run, recipe, sources, renderer)

    outputs = [*(run.examples(split) for split in SPLITS), run.dropped, run.data]
    return run.run_stage("data", inputs, outputs, work)


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


class _Source(NamedTuple):
    """All rows of one source."""

    name: str
    rows: list[Row]
    digest: str

    @classmethod
    def read(cls, name: str) -> _Source:
        if name.startswith("builtin:"):
            if name not in _BUILTIN:
                raise DataError(f"There is no {name!r}. Built in are: {', '.join(_BUILTIN)}.")
            made = _BUILTIN[name]()
            rows = [Row(dict(r), f"{name}:{n}", r["group"]) for n, r in enumerate(made, 1)]
            return cls(name, rows, digest_json(made))
        return cls(name, load_rows(Path(name)), digest_file(Path(name)))


def _write(run: RunFolder, recipe: Recipe, sources: list[_Source], renderer: Renderer) -> None:
    section, sieve = recipe.data, Sieve()
    form, reason = detect_format(sources[0].rows[:1], section)
    drafts = [_drafts(source, form, section, sieve) for source in sources]
    labels = None
    if form == "classification" or section.labels_from_answers:
        drafts, labels = closed_labels(drafts, section, sieve)
    splits = _splits(drafts, recipe, sieve)
    if labels is not None:
        check_labels(labels, renderer)
    examples: dict[Split, list[Example]] = {}
    summaries: dict[Split, SplitSummary] = {}
    for split in SPLITS:
        examples[split], summaries[split] = _render(
            splits[split], form, section, labels, renderer, sieve
        )
    shares = {
        "validation": section.validation_share,
        "test": section.test_share or section.test_source,
    }
    check_splits(examples, labels, ["train", *(s for s in SPLITS if shares.get(s))])

    for split in SPLITS:
        write_jsonl(run.examples(split), (example.model_dump() for example in examples[split]))
    write_jsonl(
        run.dropped,
        ({"reason": why, "place": row.place, "row": row.content} for row, why in sieve.dropped),
    )
    DataFile(
        sources=[
            SourceRecord(
                path=source.name,
                kind="builtin" if source.name in _BUILTIN else "jsonl",
                weight=1.0,
                num_rows=len(source.rows),
                digest=source.digest,
            )
            for source in sources
        ],
        format=form,
        format_reason=reason,
        digest=digest_json(sorted(e for split in SPLITS for e in _digests(examples[split]))),
        ordered_digest=digest_json([e for split in SPLITS for e in _digests(examples[split])]),
        labels=labels,
        splits=summaries,
        dropped=dict(Counter(reason for _, reason in sieve.dropped)),
    ).write(run.data)


def _drafts(source: _Source, form: Format, section: DataSection, sieve: Sieve) -> list[Draft]:
    drafts, dropped = read_drafts(source.rows, form, section)
    sieve.dropped += dropped
    drafts, repeated = drop_duplicates(drafts)
    sieve.drop(repeated, "exact duplicate")
    return drafts


def _splits(drafts: list[list[Draft]], recipe: Recipe, sieve: Sieve) -> dict[Split, list[Draft]]:
    """Deals out the drafts, and takes at most as many as the recipe wants."""
    section = recipe.data
    dealt: dict[Split, list[Draft]] = {split: [] for split in SPLITS}
    test_share = section.test_share
    source = drafts[0]
    if section.test_source is not None:
        test_share, dealt["test"] = 0.0, drafts[1]
        tested = {draft.asked for draft in drafts[1]}
        sieve.drop([draft for draft in source if draft.asked in tested], "prompt also in test")
        source = [draft for draft in source if draft.asked not in tested]
    for draft in source:
        split = split_of(draft.group, recipe.seed, section.validation_share, test_share)
        dealt[split].append(draft)
    for split in SPLITS:
        number = section.max_examples.get(split)
        dealt[split], left_over = sample(dealt[split], number, recipe.seed)
        sieve.drop(left_over, f"beyond max_examples of {split}")
    return dealt


def _render(
    drafts: list[Draft],
    form: Format,
    section: DataSection,
    labels: list[str] | None,
    renderer: Renderer,
    sieve: Sieve,
) -> tuple[list[Example], SplitSummary]:
    """Examples that the model can take, and their figures.

    Raises:
        DataError: The template refuses an example, or some are too long and none may be dropped.
    """
    examples, sizes, too_long = [], [], []
    for draft in track(drafts, "Rendering examples", len(drafts)):
        example = to_example(draft, form, section, labels or [])
        try:
            size = len(renderer.example(example.messages).input_ids)
        except DataError as error:
            raise DataError(f"{example.place}: {error}") from error
        if size > section.max_length:
            too_long.append((size, draft))
        else:
            examples.append(example)
            sizes.append(size)
    if too_long and section.on_too_long == "fail":
        size, longest = max(too_long, key=lambda pair: pair[0])
        raise DataError(
            f"{len(too_long):,} of {len(drafts):,} examples are longer than data.max_length, "
            f"{section.max_length} tokens; the longest, {longest.row.place}, has {size}. Raise "
            "data.max_length, or set data.on_too_long: drop. Nothing is ever cut."
        )
    sieve.drop([draft for _, draft in too_long], f"longer than {section.max_length} tokens")
    counts = Counter(example.label for example in examples if example.label is not None)
    return examples, SplitSummary(
        num_examples=len(examples),
        num_tokens=sum(sizes),
        max_tokens=max(sizes, default=0),
        label_counts=dict(sorted(counts.items())),
        digest=digest_json(sorted(_digests(examples))),
        ordered_digest=digest_json(_digests(examples)),
    )


def _digests(examples: list[Example]) -> list[str]:
    return [digest_json([example.id, example.label]) for example in examples]


def _tokenizer_digest(base: Path) -> str:
    files = sorted({path for pattern in _TOKENIZER_FILES for path in base.glob(pattern)})
    return digest_json([[path.name, digest_file(path)] for path in files if path.is_file()])

"""The benchmarks stage: base and tuned model on questions that they were not tuned for."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from doratune.base import fingerprint, load_tokenizer, resolve_base
from doratune.data.texts import Text, read_texts
from doratune.errors import ConfigError
from doratune.evaluate.answers import load_model
from doratune.evaluate.benchmarks.figures import make_figures
from doratune.evaluate.benchmarks.kept import Kept
from doratune.evaluate.benchmarks.language_model import BatchedLM
from doratune.evaluate.benchmarks.pace import Pace, announce, tell_outcome
from doratune.evaluate.benchmarks.questions import Question, ask_for, judged, num_available
from doratune.evaluate.benchmarks.tasks import Benchmark, load_benchmarks
from doratune.evaluate.benchmarks.texts import out_of_domain
from doratune.progress import console, progress_bar
from doratune.recipe.schema import Recipe
from doratune.record.benchmarks import (
    BenchmarkFigures,
    BenchmarkSample,
    BenchmarksFile,
    TextSample,
)
from doratune.record.evaluation import MODELS, Model
from doratune.record.files import digest_json, digest_path, write_jsonl
from doratune.record.run_folder import RunFolder

_QUESTIONS_AT_ONCE = 128
"""Most that an interruption loses. More would share more of their worked examples."""
_TEXTS_AT_ONCE = 32


class Asked(NamedTuple):
    """All that both models are asked."""

    benchmarks: list[tuple[Benchmark, list[Question]]]
    texts: list[Text]

    def questions(self) -> Iterator[tuple[Benchmark, Question]]:
        """Every question."""
        return ((b, question) for b, questions in self.benchmarks for question in questions)


def evaluate_benchmarks(run: RunFolder, recipe: Recipe) -> bool:
    """Compares base and tuned model on public benchmarks and on texts from elsewhere.

    Reads ``adapter/``; writes ``benchmarks.json``, ``benchmarks.samples.jsonl`` and
    ``benchmarks.texts.jsonl``. Answers are kept as they come: what a model has answered once it is not
    asked again, after an interruption or when another benchmark is added.

    Returns:
        Whether anything was done; False when the figures are up to date.

    Raises:
        ConfigError: The recipe names nothing to measure, an unknown task, or one that cannot be
            compared question by question.
        DataError: Questions or texts cannot be had or read.
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base cannot be had, or continuations cannot be scored with it.
        StorageError: A file of the run folder cannot be read or written.
    """
    settings = recipe.eval.benchmarks
    if not settings.tasks and settings.texts is None:
        raise ConfigError(
            "The recipe names no eval.benchmarks.tasks and no eval.benchmarks.texts; name at least "
            "one, such as tasks: [mmlu]."
        )
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    model = recipe.model.model_dump(exclude={"source", "revision"})
    base_digest = digest_json([fingerprint(base_path), model])
    models: dict[Model, str] = {
        "base": base_digest,
        "tuned": digest_json([base_digest, digest_path(run.adapter)]),
    }
    inputs: dict[str, str] = {
        "base": models["base"],
        "tuned": models["tuned"],
        "settings": digest_json([settings.model_dump(), recipe.seed]),
        "lm-eval": metadata.version("lm-eval"),
    }
    for key in ("data", "texts"):
        place = getattr(settings, key)
        if place is not None and Path(place).expanduser().exists():
            inputs[key] = digest_path(Path(place).expanduser())
    return run.run_stage(
        "benchmarks",
        inputs=inputs,
        outputs=[run.benchmarks, run.benchmark_samples, run.benchmark_texts],
        work=lambda: _evaluate(run, recipe, base_path, models),
    )


def _evaluate(run: RunFolder, recipe: Recipe, base_path: Path, models: dict[Model, str]) -> None:
    started = time.monotonic()
    settings = recipe.eval.benchmarks
    with console.status("Loading questions"):
        asked = Asked(
            [
                (benchmark, ask_for(benchmark, settings.max_questions, recipe.seed))
                for benchmark in load_benchmarks(settings)
            ],
            []
            if settings.texts is None
            else read_texts(settings.texts, settings.max_questions, recipe.seed),
        )
    kept = Kept(run, models)
    _ask_both(run, recipe, base_path, asked, kept)
    samples = [
        _known(kept, model, question) for _, question in asked.questions() for model in MODELS
    ]
    texts = [_known_text(kept, model, text) for text in asked.texts for model in MODELS]
    write_jsonl(run.benchmark_samples, [sample.model_dump() for sample in samples])
    write_jsonl(run.benchmark_texts, [sample.model_dump() for sample in texts])
    file = _file(recipe, asked, samples, texts, time.monotonic() - started)
    file.write(run.benchmarks)
    tell_outcome(file)


def _ask_both(run: RunFolder, recipe: Recipe, base_path: Path, asked: Asked, kept: Kept) -> None:
    """Asks each model what it has not answered yet, one model in memory at a time."""
    missing = {model: _missing(model, asked, kept) for model in MODELS}
    total = sum(
        len(texts) + sum(len(question.requests) for _, question in questions)
        for questions, texts in missing.values()
    )
    if not total:
        return
    tokenizer = load_tokenizer(base_path)
    told = False
    with progress_bar() as progress:
        pace = Pace(progress, total)
        # The tuned model comes first: a damaged adapter shows before the base has taken its time.
        for name in reversed(MODELS):
            questions, texts = missing[name]
            if not questions and not texts:
                continue
            model = load_model(name, base_path, run.adapter, recipe.model)
            lm = BatchedLM(model, tokenizer, recipe.eval.batch_size, pace.advance)
            if not told:
                announce(lm, asked.benchmarks, asked.texts, recipe.eval.benchmarks.max_drop_points)
                told = True
            pace.start(name)
            _ask(lm, name, questions, kept)
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                kept.add_texts(_read(lm, name, texts[start : start + _TEXTS_AT_ONCE]))
            pace.stop()
            del model, lm
            gc.collect()


def _missing(
    model: Model, asked: Asked, kept: Kept
) -> tuple[list[tuple[Benchmark, Question]], list[Text]]:
    """What a model has still to answer."""
    questions = [
        (benchmark, question)
        for benchmark, question in asked.questions()
        if _answer(kept, model, question) is None
    ]
    texts = [text for text in asked.texts if kept.text(model, text.place, text.digest) is None]
    return questions, texts


def _answer(kept: Kept, model: Model, question: Question) -> BenchmarkSample | None:
    return kept.answer(
        model, question.benchmark, question.subject, question.number, question.digest
    )


def _known(kept: Kept, model: Model, question: Question) -> BenchmarkSample:
    sample = _answer(kept, model, question)
    assert sample is not None  # it has just been asked
    return sample


def _known_text(kept: Kept, model: Model, text: Text) -> TextSample:
    sample = kept.text(model, text.place, text.digest)
    assert sample is not None
    return sample


def _ask(
    lm: BatchedLM, model: Model, questions: Sequence[tuple[Benchmark, Question]], kept: Kept
) -> None:
    """Asks one model, and keeps its answers chunk by chunk."""
    for chunk in _chunks(questions):
        ask: Callable[..., list[object]] = getattr(lm, chunk[0][1].request_type)
        responses = iter(ask([r for _, question in chunk for r in question.requests]))
        kept.add(
            [
                judged(benchmark, question, [next(responses) for _ in question.requests], model)
                for benchmark, question in chunk
            ]
        )


def _chunks(
    questions: Sequence[tuple[Benchmark, Question]],
) -> Iterator[list[tuple[Benchmark, Question]]]:
    """Questions of one subject together, which share their worked examples."""
    chunk: list[tuple[Benchmark, Question]] = []
    for benchmark, question in questions:
        first = chunk[0][1] if chunk else question
        same = (question.benchmark, question.subject) == (first.benchmark, first.subject)
        if not same or len(chunk) == _QUESTIONS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append((benchmark, question))
    if chunk:
        yield chunk


def _read(lm: BatchedLM, model: Model, texts: Sequence[Text]) -> list[TextSample]:
    return [
        TextSample(
            place=text.place,
            digest=text.digest,
            model=model,
            num_tokens=num_tokens,
            logprob=logprob,
        )
        for text, (logprob, num_tokens) in zip(
            texts, lm.read([text.content for text in texts]), strict=True
        )
    ]


def _file(
    recipe: Recipe,
    asked: Asked,
    samples: Sequence[BenchmarkSample],
    texts: Sequence[TextSample],
    seconds: float,
) -> BenchmarksFile:
    settings = recipe.eval.benchmarks
    figures: list[BenchmarkFigures] = [
        make_figures(
            benchmark,
            num_available(benchmark),
            [sample for sample in samples if sample.benchmark == benchmark.name],
            version=metadata.version("lm-eval"),
            max_drop_points=settings.max_drop_points,
            seed=recipe.seed,
        )
        for benchmark, _ in asked.benchmarks
    ]
    return BenchmarksFile(
        max_drop_points=settings.max_drop_points,
        benchmarks=figures,
        out_of_domain=out_of_domain(settings.texts, texts, recipe.seed) if settings.texts else None,
        passed=all(figure.passed for figure in figures),
        seconds=seconds,
    )

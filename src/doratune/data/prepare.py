"""The whole of the data stage, step by step: sources to the files of a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from doratune.base import load_base
from doratune.data.deal import deal
from doratune.data.formats import to_example
from doratune.data.gates import quality
from doratune.data.judge import Judge
from doratune.data.labels import check_labels, count_labels
from doratune.data.passes.compare import leakage_hits, relevance_scores
from doratune.data.passes.pickled import save_tokenizer
from doratune.data.passes.reading import read_sources
from doratune.data.passes.rendered import Settings, render_all
from doratune.data.passes.store import FINE, drafts, read_batch
from doratune.data.passes.workers import Workers
from doratune.data.read import Source
from doratune.data.render import Rendered, Renderer
from doratune.data.sieve import Sieve, refuse_failures
from doratune.data.split import NOWHERE, TRAIN, check_splits, copies_of, sample
from doratune.data.table import print_gates, print_splits
from doratune.data.write import Kept, summarise, write_dropped, write_examples, write_review
from doratune.errors import DataError
from doratune.recipe.schema import Recipe
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import SPLITS, DataFile, GateReport, SourceRecord


class Preparation:
    """One run of the data stage.

    Args:
        recipe: Says what to do.
        base: Folder of the base model.
        renderer: Of the base.
        sources: Those of ``data.source``, then that of ``data.test_source`` if there is one.
        work: Folder for working files; those that an interrupted run left are used.
        workers: Do the work on rows.

    Raises:
        DataError: A source cannot be read.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Path,
        renderer: Renderer,
        sources: Sequence[Source],
        work: Path,
        workers: Workers,
    ) -> None:
        self.recipe = recipe
        self.section = recipe.data
        self.base = base
        self.renderer = renderer
        self.sources = sources
        self.work = work
        self.workers = workers
        self.tokenizer = work / "tokenizer.pickle"
        save_tokenizer(renderer.tokenizer, self.tokenizer)
        self.reading = read_sources(sources, self.section, self.tokenizer, work, workers)
        self.store = self.reading.store
        self.columns = self.reading.columns
        self.sieve = Sieve(len(self.columns.state))
        self.judge = Judge(self.store, self.columns, self.reading.tested, self.section, self.sieve)
        self.labels: list[str] | None = None
        self.copies = np.ones(len(self.columns.state), np.int64)
        """How often each row is written."""

    def run(self, folder: RunFolder, digests: list[str]) -> None:
        """Judges, splits, renders and then writes; before that nothing is touched.

        Args:
            folder: Where to.
            digests: Of the sources.

        Raises:
            DataError: The data cannot be used as it is, or a gate whose action is ``fail`` found
                something.
            ConfigError: The tokenizer cannot render conversations.
        """
        if self.reading.form != "text":
            self.renderer.require_template()
        self.judge.structure()
        if self.sieve.findings[0].fails:
            self._refuse(None)
        self._judge_rows()
        self.splits = deal(self.judge, self.recipe.seed)
        self._judge_texts()
        self._choose()
        self._judge_answers()
        tokens, self.examples = render_all(
            self.sieve.left,
            Settings(self.section, self.reading.form, self.labels or [], self.tokenizer),
            self.store,
            self.workers,
        )
        self.judge.length(tokens)
        too_long = self._leave_out_too_long(tokens)
        self._judge_leakage()
        self._note_missing_labels()
        reports = self._refuse(too_long)
        self._check_splits()
        self._write(folder, tokens, reports, digests)

    def _judge_rows(self) -> None:
        """The gates that need no text."""
        self.judge.encoding()
        self.judge.duplicates()
        self.judge.conflicts()
        closed = self.reading.form == "classification" or self.section.labels_from_answers
        self.labels = self.judge.labels(closed)
        if self.labels is not None:
            check_labels(self.labels, self.renderer)

    def _judge_texts(self) -> None:
        self.judge.language()
        self.judge.personal_data()
        options = self.section.gates.relevance
        scores = None
        if options.action != "off" and options.seeds:
            scores = relevance_scores(options.seeds, self.sieve.left, self.store, self.workers)
        self.judge.relevance(scores)

    def _choose(self) -> None:
        """Takes as many examples as weights and ``max_examples`` say."""
        columns, sieve, seed = self.columns, self.sieve, self.recipe.seed
        for number, section in enumerate(self.section.sources):
            if section.weight != 1:
                rows = sieve.left & (columns.source == number) & (self.splits == TRAIN)
                self.copies[rows] = copies_of(columns.identity[rows], section.weight, seed)
        sieve.drop(self.copies == 0, "weight", "left out by the weight of its source")
        for number, split in enumerate(SPLITS):
            rows = sieve.left & (self.splits == number)
            most = self.section.max_examples.get(split)
            self.copies[rows] = sample(columns.identity[rows], self.copies[rows], most, seed)
            sieve.drop(self.copies == 0, "max_examples", f"beyond max_examples of {split}")

    def _judge_answers(self) -> None:
        """Runs the base model over all examples, if the recipe wants that."""
        rows = np.flatnonzero(self.sieve.left)
        scores = None
        if self.section.gates.quality.action != "off":
            model = load_base(self.base, self.recipe.model.dtype)
            scores = quality.scores(model, self.renderer, list(self._rendered()))
        self.judge.quality(rows, scores)

    def _rendered(self) -> Iterator[Rendered]:
        for number, rows in self.store.parts():
            chosen = pa.array(np.flatnonzero(self.sieve.left[rows]))
            made = drafts(read_batch(self.store.part(number)).take(chosen))
            examples = [
                to_example(draft, self.reading.form, self.section, self.labels or [])
                for draft in made
            ]
            yield from self.renderer.examples([(e.messages, e.tools) for e in examples])

    def _leave_out_too_long(self, tokens: NDArray[np.int32]) -> str:
        """Drops what the model cannot take; says what is wrong if none may be dropped."""
        longest = self.section.max_length
        over = self.sieve.left & (tokens > longest)
        if self.section.on_too_long == "drop":
            self.sieve.drop(over, "on_too_long", f"longer than {longest} tokens")
            return ""
        if not over.any():
            return ""
        worst = int(np.argmax(tokens))
        return (
            f"{over.sum():,} of {self.sieve.left.sum():,} examples are longer than "
            f"data.max_length, {longest} tokens; the longest, {self.store.place(worst)}, has "
            f"{tokens[worst]:,}. Raise data.max_length, or set data.on_too_long: drop. Nothing is "
            "ever cut."
        )

    def _judge_leakage(self) -> None:
        options = self.section.gates.leakage
        hits = None
        if options.action != "off":
            hits = leakage_hits(
                options.evaluation_sets,
                options.ngram,
                np.where(self.sieve.left, self.splits, NOWHERE),
                self.store,
                self.examples,
                self.workers,
            )
        self.judge.leakage(hits, self.splits == TRAIN)

    def _refuse(self, too_long: str | None) -> list[GateReport]:
        """Shows what the gates found, and stops if something may not be so."""
        reports = self.sieve.reports(self.store, self._id_of)
        print_gates(reports)
        refuse_failures(reports)
        if too_long:
            raise DataError(too_long)
        return reports

    def _id_of(self, row: int) -> str:
        if self.columns.state[row] != FINE:
            return self.store.place(row)
        draft = self.store.draft(row)
        return to_example(draft, self.reading.form, self.section, self.labels or []).id

    def _kept(self, split: int) -> NDArray[np.bool_]:
        return self.sieve.left & (self.splits == split)

    def _note_missing_labels(self) -> None:
        """Says which labels cannot be measured."""
        names = self.store.names["label"].all
        for number, split in enumerate(SPLITS[1:], 1):
            there = count_labels(self.columns.label[self._kept(number)], names)
            missing = [repr(label) for label in self.labels or [] if label not in there]
            if there and missing:
                self.sieve.add_note("labels", f"Not in {split}: {', '.join(missing)}.")

    def _check_splits(self) -> None:
        names = self.store.names["label"].all
        kept = {split: self._kept(number) for number, split in enumerate(SPLITS)}
        shares = {
            "train": 1,
            "validation": self.section.validation_share,
            "test": self.section.test_share or self.section.test_source,
        }
        check_splits(
            {split: int(rows.sum()) for split, rows in kept.items()},
            {split: count_labels(self.columns.label[rows], names) for split, rows in kept.items()},
            self.labels,
            [split for split in SPLITS if shares[split]],
        )

    def _write(
        self,
        folder: RunFolder,
        tokens: NDArray[np.int32],
        reports: list[GateReport],
        digests: list[str],
    ) -> None:
        splits = np.where(self.sieve.left, self.splits, NOWHERE).astype(np.int8)
        kept = Kept(splits, self.copies, self.examples)
        names = self.store.names["label"].all if self.labels else []
        codes = self.columns.label if self.labels else np.full(len(splits), -1, np.int32)
        prints = write_examples(folder, self.store, kept)
        write_dropped(folder.dropped, self.store, self.sieve)
        gate, seed = self.section.gates.review, self.recipe.seed
        write_review(folder.review_sample, self.store, kept, [*names, None], codes, gate, seed)
        file = DataFile(
            sources=[
                SourceRecord(
                    path=source.path,
                    kind=source.kind,
                    weight=source.weight,
                    num_rows=num_rows,
                    digest=digest,
                )
                for source, num_rows, digest in zip(
                    self.sources, self.reading.num_rows, digests, strict=True
                )
            ],
            format=self.reading.form,
            format_reason=self.reading.reason,
            **prints[None]._asdict(),
            gates=reports,
            labels=self.labels,
            splits={
                split: summarise(kept, number, tokens, codes, names, prints[split])
                for number, split in enumerate(SPLITS)
            },
            dropped=self.sieve.counts(),
        )
        file.write(folder.data)
        print_splits(file)

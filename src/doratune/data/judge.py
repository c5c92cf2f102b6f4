"""The gates in their order, over what the survey knows of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from doratune.data.gates import conflicts, duplicates, encoding, labels, quality
from doratune.data.labels import closed_labels, count_labels
from doratune.data.passes.store import UNFIT, UNLABELLED, UNREADABLE, Columns, Store
from doratune.data.sieve import Sieve, count_kinds
from doratune.recipe.schema import DataSection

Mask = NDArray[np.bool_]


class Judge:
    """Judges rows gate by gate; what is dropped by one is not seen by the next.

    Args:
        store: Looks up what is shown of single rows.
        columns: The numbers of all rows.
        tested: Rows of the test source.
        section: Actions and thresholds.
        sieve: Keeps what comes of it.
    """

    def __init__(
        self, store: Store, columns: Columns, tested: Mask, section: DataSection, sieve: Sieve
    ) -> None:
        self.store = store
        self.columns = columns
        self.tested = tested
        self.section = section
        self.options = section.gates
        self.sieve = sieve
        self.sides = [tested, ~tested] if tested.any() else [~tested]
        """Gates that compare rows with each other do so within the training and the test sources."""

    def structure(self) -> None:
        """Lines that cannot be read, and rows that do not fit; also leaves out null labels."""
        state = self.columns.state
        kinds = {
            "cannot be read": int((state == UNREADABLE).sum()),
            "does not fit the format": int((state == UNFIT).sum()),
        }
        self.sieve.judge(
            "structure",
            self.options.structure,
            (state == UNREADABLE) | (state == UNFIT),
            self.store.problem,
            "cannot be read or does not fit the format",
            kinds={kind: number for kind, number in kinds.items() if number},
        )
        self.sieve.drop(state == UNLABELLED, "label_column", "label is null")

    def encoding(self) -> None:
        """Broken or invisible text, and special tokens of the tokenizer."""
        codes, names = self.columns.encoding, self.store.names["encoding"]

        def why(row: int) -> str:
            return encoding.why(self.store.draft(row).text) or names.all[codes[row]]

        self.sieve.judge(
            "encoding",
            self.options.encoding,
            codes >= 0,
            why,
            "broken or invisible characters",
            kinds=count_kinds(codes[self.sieve.left], names),
        )

    def duplicates(self) -> None:
        """Examples that say the same; sources are one, in their order."""
        identity = self.columns.identity
        if self.options.duplicates.action == "off":
            self.sieve.skip("duplicates", self.options.duplicates)
            return
        found = self._within_sides(lambda rows: duplicates.find(identity[rows]))

        def why(row: int) -> str:
            same = self.tested == self.tested[row]
            first = np.flatnonzero((identity == identity[row]) & same)[0]
            return f"says the same as {self.store.place(int(first))}"

        self.sieve.judge("duplicates", self.options.duplicates, found, why, "exact duplicate")

    def conflicts(self) -> None:
        """One input with different labels."""
        asked, codes = self.columns.asked, self.columns.label
        options = self.options.conflicts
        if options.action == "off" or not (codes >= 0).any():
            note = "" if options.action == "off" else "The data has no labels."
            self.sieve.skip("conflicts", options, note)
            return
        found = self._within_sides(
            lambda rows: conflicts.find(asked[rows], codes[rows].astype(np.int64))
        )

        def why(row: int) -> str:
            same = (asked == asked[row]) & (self.tested == self.tested[row]) & (codes >= 0)
            names = self.store.names["label"].all
            return f"labelled {' and '.join(repr(names[code]) for code in np.unique(codes[same]))}"

        self.sieve.judge("conflicts", options, found, why, "one input with different labels")

    def labels(self, closed: bool) -> list[str] | None:
        """Takes the closed label set, and looks for labels that are rare.

        Args:
            closed: Whether there is to be a closed set.

        Returns:
            The closed set, sorted; None for an open task.

        Raises:
            DataError: The labels make no closed set.
        """
        options, codes = self.options.labels, self.columns.label
        if not closed:
            self.sieve.skip("labels", options, "The data has no labels.")
            return None
        names = self.store.names["label"].all
        kept = closed_labels(codes, names, self.tested, self.section, self.sieve)
        if options.action == "off":
            self.sieve.skip("labels", options)
            return kept
        counts = count_labels(codes[self.sieve.left & ~self.tested], names)
        problems = labels.find(counts, options.min_count, options.max_imbalance)
        most = max(counts.values())
        rare = {
            name: number
            for name, number in counts.items()
            if number < options.min_count or number * options.max_imbalance < most
        }
        self.sieve.judge(
            "labels",
            options,
            np.array([*(name in rare for name in names), False])[codes],
            lambda row: f"label {names[codes[row]]!r} has {rare[names[codes[row]]]:,} examples",
            "",
            among=~self.tested,
            kinds=rare,
            note=" ".join(problems),
        )
        return kept

    def language(self) -> None:
        """Examples in another language."""
        options, codes = self.options.language, self.columns.language
        names = self.store.names["language"]
        counts = Counter(
            dict(enumerate(np.bincount(codes[self.sieve.left & (codes >= 0)]).tolist()))
        )
        expected = list(options.languages)
        note = ""
        if not expected and counts:
            expected = [names.all[counts.most_common(1)[0][0]]]
            note = f"{expected[0]} is the commonest language."
        found = (codes >= 0) & np.array([*(name not in expected for name in names.all), False])[
            codes
        ]
        self.sieve.judge(
            "language",
            options,
            found,
            lambda row: f"{names.all[codes[row]]}, not {' or '.join(expected)}",
            "another language",
            kinds=count_kinds(codes[found & self.sieve.left], names),
            note=note,
        )

    def personal_data(self) -> None:
        """E-mail addresses, keys and the like."""
        codes, names = self.columns.personal_data, self.store.names["personal_data"]
        masked = self.options.personal_data.action == "mask"
        self.sieve.judge(
            "personal_data",
            self.options.personal_data,
            codes >= 0,
            lambda row: names.all[codes[row]],
            "personal data",
            kinds=count_kinds(codes[self.sieve.left], names),
            note="Replaced by [EMAIL], [PHONE] and so on." if masked else "",
        )

    def relevance(self, scores: NDArray[np.float32] | None) -> None:
        """Examples unlike the seed documents.

        Args:
            scores: Of all rows; None where the gate does not run.
        """
        options = self.options.relevance
        if scores is None or not self.sieve.left.any():
            note = "" if options.action == "off" else "No seed documents are named."
            self.sieve.skip("relevance", options, note)
            return
        limit = np.quantile(scores[self.sieve.left], options.quantile)
        self.sieve.judge(
            "relevance",
            options,
            scores < limit,
            lambda row: f"log-ratio {scores[row]:.2f} nats, below {limit:.2f}",
            "unlike the seed documents",
        )

    def quality(self, rows: NDArray[np.int64], scores: quality.Scores | None) -> None:
        """Answers that surprise the base model too much or too little.

        Args:
            rows: Those that have scores.
            scores: Of these rows; None where the gate does not run.
        """
        options = self.options.quality
        if scores is None:
            self.sieve.skip("quality", options)
            return
        tails = quality.tails(scores, options.quantile)
        place = {int(row): index for index, row in enumerate(rows)}
        found = np.zeros(len(self.sieve.left), np.bool_)
        found[rows[np.any([tail.found for tail in tails], axis=0)]] = True

        def why(row: int) -> str:
            return "; ".join(tail.why(place[row]) for tail in tails if tail.found[place[row]])

        self.sieve.judge(
            "quality",
            options,
            found,
            why,
            "bad tail of the base model's perplexity",
            kinds={tail.kind: int(tail.found.sum()) for tail in tails},
        )

    def length(self, tokens: NDArray[np.int32]) -> None:
        """Very short and very long examples; what is too long for the model is left out or refused.

        Args:
            tokens: Of each row.
        """
        options, longest = self.options.length, self.section.max_length
        limit = int(options.max_share * longest)
        short, long = tokens < options.min_tokens, tokens > limit
        over = self.sieve.left & (tokens > longest)
        cut = int((tokens[over] - longest).sum())
        self.sieve.judge(
            "length",
            options,
            short | long,
            lambda row: f"{tokens[row]:,} tokens",
            "too short or nearly too long",
            kinds={
                f"under {options.min_tokens} tokens": int((short & self.sieve.left).sum()),
                f"over {limit} tokens": int((long & self.sieve.left).sum()),
            },
            note=(
                f"{over.sum():,} exceed {longest:,} tokens; cutting them would lose {cut:,} tokens."
                if over.any()
                else ""
            ),
        )

    def leakage(self, hits: dict[str, NDArray[np.int32]] | None, trained: Mask) -> None:
        """Training examples that share words with held-out ones or with evaluation sets.

        Args:
            hits: For each split or evaluation set, the n-grams that each row shares with it; None
                where the gate does not run.
            trained: Rows of the train split.
        """
        options = self.options.leakage
        if hits is None:
            self.sieve.skip("leakage", options)
            return
        trained = trained & self.sieve.left

        def why(row: int) -> str:
            return "; ".join(
                f"{shared[row]:,} {options.ngram}-grams also in {name}"
                for name, shared in hits.items()
                if shared[row]
            )

        self.sieve.judge(
            "leakage",
            options,
            np.any([shared > 0 for shared in hits.values()], axis=0),
            why,
            "shares words with held-out or evaluation examples",
            among=trained,
            kinds={name: int((shared[trained] > 0).sum()) for name, shared in hits.items()},
        )

    def _within_sides(self, find: Callable[[NDArray[np.int64]], Mask]) -> Mask:
        """What is found among the rows that are left, on each side by itself."""
        found = np.zeros(len(self.tested), np.bool_)
        for side in self.sides:
            rows = np.flatnonzero(side & self.sieve.left)
            found[rows] = find(rows)
        return found

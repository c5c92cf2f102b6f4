"""What a benchmark run will take, before it starts and once it is known; and what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from rich.progress import Progress, TaskID

from doratune.data.texts import Text
from doratune.evaluate.benchmarks.language_model import BatchedLM
from doratune.evaluate.benchmarks.power import ASSUMED_DISCORDANCE, smallest_detectable
from doratune.evaluate.benchmarks.questions import Question, num_available
from doratune.evaluate.benchmarks.tasks import Benchmark
from doratune.progress import console
from doratune.record.benchmarks import BenchmarksFile

_LOOKED_AT = 50
"""Questions by which the number of tokens is estimated."""
_SETTLED_SECONDS = 10


class Pace:
    """The progress bar over all requests to both models, and one word of how long it will take."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0
        self._task: TaskID = progress.add_task("Benchmarks", total=total, note="")
        self._seconds = 0.0
        self._running_since: float | None = None
        self._told = False

    def start(self, note: str) -> None:
        """From now on the clock runs."""
        self.progress.update(self._task, note=note)
        self._running_since = time.monotonic()

    def stop(self) -> None:
        """The clock stands still, such as while a model is loaded."""
        if self._running_since is not None:
            self._seconds += time.monotonic() - self._running_since
            self._running_since = None

    def advance(self, number: int) -> None:
        """So many requests are finished."""
        self.done += number
        self.progress.advance(self._task, number)
        if self._told or self._running_since is None:
            return
        passed = self._seconds + time.monotonic() - self._running_since
        if passed >= _SETTLED_SECONDS and self.done < self.total:
            left = passed / self.done * (self.total - self.done)
            console.print(
                f"{self.done:,} of {self.total:,} requests took {passed:.0f} s; the rest will take "
                f"about {timedelta(seconds=round(left))}",
                highlight=False,
            )
            self._told = True


def announce(
    lm: BatchedLM,
    asked: Sequence[tuple[Benchmark, Sequence[Question]]],
    texts: Sequence[Text],
    max_drop_points: float,
) -> None:
    """Says what will be asked, and what so many questions can show."""
    for benchmark, questions in asked:
        available = num_available(benchmark)
        part = f" of {available:,}" if available > len(questions) else ""
        subjects = f" in {len(benchmark.subjects)} subjects" if len(benchmark.subjects) > 1 else ""
        shots = f", {benchmark.num_fewshot}-shot" if benchmark.num_fewshot else ""
        points = 100 * smallest_detectable(len(questions), ASSUMED_DISCORDANCE)
        few = (
            f"; too few questions to see a drop of {max_drop_points:g}"
            if points > max_drop_points
            else ""
        )
        console.print(
            f"{benchmark.name}: {len(questions):,}{part} questions{subjects}{shots}, about "
            f"{_num_tokens(lm, questions):,} tokens. A change of {points:.1f} points would show, if "
            f"the models differ on {ASSUMED_DISCORDANCE:.0%} of the questions{few}.",
            highlight=False,
        )
    if texts:
        console.print(f"Perplexity of {len(texts):,} texts from elsewhere.", highlight=False)


def _num_tokens(lm: BatchedLM, questions: Sequence[Question]) -> int:
    """Tokens of all prompts with their answers, to two digits."""
    some = questions[:: max(1, len(questions) // _LOOKED_AT)]
    number = lm.count_tokens([r for question in some for r in question.requests])
    return int(float(f"{number * len(questions) / len(some):.2g}"))


def tell_outcome(file: BenchmarksFile) -> None:
    """One line a benchmark."""
    for one in file.benchmarks:
        change = one.difference
        console.print(
            f"{one.benchmark}: base {one.base.value:.1%}, tuned {one.tuned.value:.1%} on "
            f"{one.num_questions:,} questions; {100 * change.value:+.1f} points "
            f"({100 * change.low:+.1f} to {100 * change.high:+.1f}), "
            f"{'within' if one.passed else 'NOT within'} {file.max_drop_points:g} points; a change of "
            f"{100 * one.smallest_detectable:.1f} would show",
            highlight=False,
        )
    texts = file.out_of_domain
    if texts is not None:
        console.print(
            f"Perplexity of {texts.num_texts:,} texts from elsewhere: base {texts.base.value:.2f}, "
            f"tuned {texts.tuned.value:.2f}, ratio {texts.ratio.value:.3f} ({texts.ratio.low:.3f} to "
            f"{texts.ratio.high:.3f})",
            highlight=False,
        )

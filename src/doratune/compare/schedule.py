"""All jobs of a comparison, done side by side: first every sweep, then every final run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple

from rich.progress import Progress as Bars
from rich.progress import TaskID

from doratune.compare.budget import total_steps
from doratune.compare.engine import Engine
from doratune.compare.engine.process import describe_exit
from doratune.compare.jobs import Jobs
from doratune.compare.sweep import ArmPlan, Progress, base_job, final_jobs, follow
from doratune.progress import console, progress_bar
from doratune.recipe.comparison import TrainedArm
from doratune.record.comparison import JobRecord
from doratune.report.text import duration

POLL_SECONDS = 0.5


class Started(NamedTuple):
    """A job that runs."""

    job: JobRecord
    at: float


class Schedule:
    """Does the jobs of all arms on an engine, and says what becomes of each."""

    def __init__(self, plans: Sequence[ArmPlan], jobs: Jobs, engine: Engine) -> None:
        self.plans, self.jobs, self.engine = plans, jobs, engine
        self.started = time.monotonic()
        self.steps_now = 0
        """Optimizer steps of the jobs that ended since then."""
        self.num_ended = 0
        """How many these are."""

    def sweep(self) -> dict[TrainedArm, Progress]:
        """Finds the best learning rate of every arm."""
        self._run("Sweep", lambda: _alternating([self._follow(plan).sweep for plan in self.plans]))
        return {plan.arm: self._follow(plan) for plan in self.plans}

    def finish(self, swept: Mapping[TrainedArm, Progress]) -> list[JobRecord]:
        """Trains every arm at its best learning rate; all of them and the base answer the test split."""
        finals = [
            final_jobs(plan, best)
            for plan in self.plans
            if (best := swept[plan.arm].best) is not None
        ]
        wanted = [base_job(self.jobs.recipe.seed), *_alternating(finals)]
        self._run("Final", lambda: wanted)
        return [self.jobs.look_up(job) for job in wanted]

    def _follow(self, plan: ArmPlan) -> Progress:
        """Where an arm stands, with what earlier commands did."""
        while True:
            progress = follow(plan, self.jobs.over)
            waiting = [job for job in progress.sweep if job.status == "waiting"]
            if not [job for job in waiting if self.jobs.look_up(job).status != "waiting"]:
                return progress

    def _run(self, title: str, known: Callable[[], list[JobRecord]]) -> None:
        """Does all jobs that are known, and those that become known meanwhile."""
        running: dict[Future[int], Started] = {}
        with progress_bar() as bars:
            bar = bars.add_task(title, total=None, note="")
            while True:
                every = [self.jobs.look_up(job) for job in known()]
                busy = {started.job.name for started in running.values()}
                waiting = [j for j in every if j.status == "waiting" and j.name not in busy]
                for waits in waiting[: self.engine.workers - len(running)]:
                    job = waits.model_copy(update={"workers": self.engine.workers})
                    folder = self.jobs.prepare(job)
                    running[self.engine.submit(folder.path)] = Started(job, time.monotonic())
                if not running:
                    return
                self._show(bars, bar, every, [started.job for started in running.values()])
                ended, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in ended:
                    self._end(title, future, running.pop(future))

    def _end(self, title: str, future: Future[int], started: Started) -> None:
        """Notes how a job ended, and says it in a line."""
        error = future.exception()
        reason = describe_exit(future.result()) if error is None else str(error)
        job = self.jobs.finish(started.job, reason, time.monotonic() - started.at)
        self.steps_now += job.num_steps
        self.num_ended += 1
        console.print(f"{title} {_line(job)}{self._left()}", highlight=False, markup=False)

    def _left(self) -> str:
        """How long the rest will take at the pace so far."""
        left = sum(map(total_steps, self.plans))
        left -= sum(job.num_steps for job in self.jobs.over.values())
        if left <= 0 or not self.steps_now:
            return ""
        seconds = left * (time.monotonic() - self.started) / self.steps_now
        return f"; about {duration(round(seconds, -1))} left" if seconds > 10 else ""

    def _show(
        self, bars: Bars, bar: TaskID, every: list[JobRecord], running: list[JobRecord]
    ) -> None:
        """Moves the bar, by the optimizer steps of all jobs of the phase."""
        steps = {job.name: self._steps_done(job) for job in running}
        over = sum(job.num_steps for job in every if job.status != "waiting")
        names = [
            f"{job.name} {steps[job.name]}/{job.num_steps}" if job.num_steps else job.name
            for job in running
        ]
        bars.update(
            bar,
            total=sum(job.num_steps for job in every),
            completed=over + sum(steps.values()),
            note=", ".join(names),
        )

    def _steps_done(self, job: JobRecord) -> int:
        try:
            return self.jobs.folder(job).steps.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0


def _line(job: JobRecord) -> str:
    if job.status == "failed":
        return f"{job.name} failed: {job.reason}"
    figures = []
    if job.validation_loss is not None:
        figures.append(f"validation loss {job.validation_loss:.4f}")
    if job.test_metric is not None:
        figures.append(f"{job.test_metric:.1%} right")
    return f"{job.name}: {', '.join([*figures, duration(job.seconds)])}"


def _alternating(groups: list[list[JobRecord]]) -> list[JobRecord]:
    """First the first job of every group, then the second: what is slow for a while is slow for all."""
    longest = max((len(group) for group in groups), default=0)
    return [group[n] for n in range(longest) for group in groups if n < len(group)]

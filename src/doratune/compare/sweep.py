"""Which jobs an arm needs: a sweep of learning rates by successive halving, then a run for each seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from doratune.compare.arms import rate_name
from doratune.recipe.comparison import TrainedArm
from doratune.record.comparison import JobRecord


class ArmPlan(NamedTuple):
    """What an arm may spend."""

    arm: TrainedArm
    learning_rates: tuple[float, ...]
    """Tried on the validation split."""
    seeds: tuple[int, ...]
    """Of the final runs; the sweep takes the first."""
    num_steps: int
    """Optimizer steps of a final run."""
    sweep_share: float
    """Share of them in the first rung."""

    def rung_steps(self, rung: int) -> int:
        """Optimizer steps of each training in a rung: twice as many as in the one before."""
        return math.ceil(self.num_steps * min(1.0, self.sweep_share * 2**rung))

    def rung_sizes(self) -> list[int]:
        """Trainings in each rung, if none fails."""
        sizes = []
        alive = len(self.learning_rates)
        while alive > 1:
            sizes.append(alive)
            alive = math.ceil(alive / 2)
        return sizes


class Progress(NamedTuple):
    """Where an arm stands."""

    sweep: list[JobRecord]
    """All jobs of the sweep that are known so far, over or not."""
    best: float | None
    """The learning rate that was chosen; None before that, or if no rate is left."""
    is_chosen: bool
    """Whether the sweep is over."""


def follow(plan: ArmPlan, over: Mapping[str, JobRecord]) -> Progress:
    """How far an arm's sweep has come.

    In each rung the better half of the learning rates goes on, by validation loss; one that failed never
    does. Equal losses prefer the lower rate.

    Args:
        plan: The arm.
        over: The jobs that are over, by name.
    """
    alive = sorted(plan.learning_rates)
    jobs: list[JobRecord] = []
    rung = 0
    while len(alive) > 1:
        names = [_sweep_job(plan, rung, rate) for rate in alive]
        current = [over.get(job.name, job) for job in names]
        jobs += current
        if any(job.status == "waiting" for job in current):
            return Progress(jobs, None, False)
        losses = {
            job.learning_rate: job.validation_loss
            for job in current
            if job.learning_rate is not None
            and job.validation_loss is not None
            and job.status == "done"
        }
        alive = sorted(losses, key=lambda rate: (losses[rate], rate))[: math.ceil(len(alive) / 2)]
        rung += 1
    return Progress(jobs, alive[0] if alive else None, True)


def final_jobs(plan: ArmPlan, rate: float) -> list[JobRecord]:
    """The runs at the chosen learning rate, one a seed."""
    return [
        JobRecord(
            name=f"{plan.arm}/{rate_name(rate)}/seed-{seed}",
            arm=plan.arm,
            stage="final",
            rung=None,
            learning_rate=rate,
            seed=seed,
            num_steps=plan.num_steps,
            status="waiting",
        )
        for seed in plan.seeds
    ]


def base_job(seed: int) -> JobRecord:
    """The base model's answers."""
    return JobRecord(
        name="base",
        arm="base",
        stage="final",
        rung=None,
        learning_rate=None,
        seed=seed,
        num_steps=0,
        status="waiting",
    )


def last_losses(jobs: list[JobRecord]) -> dict[str, float]:
    """Validation loss by learning rate, of the last rung that each rate took part in."""
    return {
        str(job.learning_rate): job.validation_loss
        for job in jobs
        if job.validation_loss is not None and job.status == "done"
    }


def _sweep_job(plan: ArmPlan, rung: int, rate: float) -> JobRecord:
    return JobRecord(
        name=f"{plan.arm}/sweep-{rung}/{rate_name(rate)}",
        arm=plan.arm,
        stage="sweep",
        rung=rung,
        learning_rate=rate,
        seed=plan.seeds[0],
        num_steps=plan.rung_steps(rung),
        status="waiting",
    )

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from doratune.compare.budget import num_trainings, sweep_steps, total_steps
from doratune.compare.sweep import ArmPlan, Progress, final_jobs, follow, last_losses
from doratune.record.comparison import JobRecord

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)


def plan(num_rates: int = 5, share: float = 0.25, steps: int = 100) -> ArmPlan:
    return ArmPlan("dora", RATES[:num_rates], (7, 8, 9), steps, share)


def sweep(
    arm: ArmPlan, loss: Callable[[JobRecord], float | None]
) -> tuple[Progress, list[list[JobRecord]]]:
    """Does jobs as they become known; those of one round could run side by side."""
    over: dict[str, JobRecord] = {}
    rounds = []
    while waiting := [j for j in follow(arm, over).sweep if j.status == "waiting"]:
        rounds.append(waiting)
        for job in waiting:
            value = loss(job)
            status = "failed" if value is None else "done"
            over[job.name] = job.model_copy(update={"validation_loss": value, "status": status})
    return follow(arm, over), rounds


def distance(job: JobRecord) -> float:
    assert job.learning_rate is not None
    return abs(math.log(job.learning_rate / 1e-4))


@pytest.mark.parametrize(
    ("num_rates", "sizes"), [(1, []), (2, [2]), (3, [3, 2]), (4, [4, 2]), (5, [5, 3, 2])]
)
def test_the_better_half_goes_on_with_twice_the_steps(num_rates: int, sizes: list[int]) -> None:
    arm = plan(num_rates)
    progress, rounds = sweep(arm, distance)
    assert [len(jobs) for jobs in rounds] == sizes == arm.rung_sizes()
    assert [jobs[0].num_steps for jobs in rounds] == [25, 50, 100][: len(sizes)]
    assert progress.is_chosen
    assert progress.best == min(RATES[:num_rates], key=lambda rate: abs(math.log(rate / 1e-4)))
    assert {job.seed for job in progress.sweep} <= {7}
    assert len(progress.sweep) == sum(sizes)
    assert sweep_steps(arm) == sum(job.num_steps for job in progress.sweep)
    assert total_steps(arm) == sweep_steps(arm) + 300
    assert num_trainings(arm) == sum(sizes) + 3


def test_a_rung_is_judged_by_its_own_losses() -> None:
    """The rate that is best in the first rung loses in the second."""
    arm = plan(3)
    losses = {(1e-5, 0): 1.0, (3e-5, 0): 2.0, (1e-4, 0): 3.0, (1e-5, 1): 0.9, (3e-5, 1): 0.8}
    progress, _ = sweep(arm, lambda job: losses[job.learning_rate or 0, job.rung or 0])
    assert progress.best == 3e-5
    assert last_losses(progress.sweep) == {"1e-05": 0.9, "3e-05": 0.8, "0.0001": 3.0}


@pytest.mark.parametrize("failing", list(itertools.combinations(RATES, 2)), ids=str)
def test_failed_rates_never_go_on(failing: tuple[float, float]) -> None:
    progress, rounds = sweep(
        plan(), lambda job: None if job.learning_rate in failing else distance(job)
    )
    for jobs in rounds[1:]:
        assert not {job.learning_rate for job in jobs} & {*failing}
    left = [rate for rate in RATES if rate not in failing]
    assert progress.best == min(left, key=lambda rate: abs(math.log(rate / 1e-4)))


def test_where_all_fail_no_rate_is_chosen() -> None:
    progress, rounds = sweep(plan(), lambda job: None)
    assert progress.best is None
    assert progress.is_chosen
    assert len(rounds) == 1


def test_where_one_is_left_it_is_chosen_at_once() -> None:
    progress, rounds = sweep(plan(), lambda job: 1.0 if job.learning_rate == 1e-3 else None)
    assert (progress.best, len(rounds)) == (1e-3, 1)


def test_equal_losses_prefer_the_lower_rate() -> None:
    assert sweep(plan(4), lambda job: 1.0)[0].best == 1e-5


def test_nothing_is_chosen_while_a_job_is_not_over() -> None:
    arm = plan(2)
    first, second = follow(arm, {}).sweep
    done = first.model_copy(update={"status": "done", "validation_loss": 0.1})
    progress = follow(arm, {first.name: done})
    assert not progress.is_chosen
    assert progress.best is None
    assert progress.sweep == [done, second]


def test_a_share_never_makes_more_than_all_steps_nor_none() -> None:
    assert [plan(share=0.4).rung_steps(rung) for rung in range(3)] == [40, 80, 100]
    assert plan(share=0.001, steps=10).rung_steps(0) == 1


def test_final_runs_have_the_rate_and_a_seed_each() -> None:
    jobs = final_jobs(plan(), 3e-5)
    assert [job.name for job in jobs] == [f"dora/lr-3e-05/seed-{seed}" for seed in (7, 8, 9)]
    assert {(job.stage, job.learning_rate, job.num_steps) for job in jobs} == {("final", 3e-5, 100)}

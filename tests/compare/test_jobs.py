from __future__ import annotations

import os
from pathlib import Path

import pytest

from doratune.compare.jobs import Jobs
from doratune.compare.setting import make_setting
from doratune.compare.sweep import base_job, final_jobs, follow
from doratune.recipe import load_recipe
from doratune.record.comparison import JobFile, JobRecord
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile
from tests.compare.comparisons import prepared, recipe

INPUTS = {"base": "b", "data": "d"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def run(place: Path, tiny_base: Path) -> RunFolder:
    return prepared(place / "run", recipe(place, tiny_base))


def jobs_of(
    run: RunFolder, base: Path, inputs: dict[str, str] = INPUTS, **sections: dict[str, object]
) -> tuple[Jobs, list[JobRecord]]:
    """The jobs, and two of DoRA's: a training of the sweep and a final run."""
    settings = recipe(run.path.parent, base, **sections)
    setting = make_setting(settings, base, DataFile.read(run.data))
    plan = next(plan for plan in setting.plans if plan.arm == "dora")
    chosen = [follow(plan, {}).sweep[0], final_jobs(plan, 2e-3)[1]]
    return Jobs(run, settings, setting.recipes, inputs), chosen


def test_a_job_sees_the_splits_it_may_and_the_same_bytes(run: RunFolder, tiny_base: Path) -> None:
    jobs, (sweep, final) = jobs_of(run, tiny_base)
    seen = {}
    for job in (sweep, final, base_job(0)):
        folder = jobs.prepare(job)
        files = sorted(path.stem for path in (folder.path / "data").iterdir())
        seen[job.name] = files
        for name in files:
            found = (folder.path / "data" / f"{name}.jsonl").read_bytes()
            assert found == (run.path / "data" / f"{name}.jsonl").read_bytes()
        assert folder.data.read_bytes() == run.data.read_bytes()
    assert seen == {
        "dora/sweep-0/lr-2e-03": ["train", "validation"],
        "dora/lr-2e-03/seed-1": ["test", "train", "validation"],
        "base": ["test"],
    }


def test_where_there_are_no_links_the_splits_are_copied(
    run: RunFolder, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    jobs, (sweep, _) = jobs_of(run, tiny_base)
    folder = jobs.prepare(sweep)
    assert folder.examples("train").read_bytes() == run.examples("train").read_bytes()
    assert not folder.examples("train").samefile(run.examples("train"))


def test_the_recipe_of_a_job(run: RunFolder, tiny_base: Path) -> None:
    train = {"magnitude_learning_rate": 1e-2}
    jobs, (sweep, final) = jobs_of(run, tiny_base, train=train)
    own = load_recipe(jobs.prepare(sweep).recipe)
    assert (own.name, own.seed) == ("dora.sweep-0.lr-2e-03", 0)
    assert own.train.learning_rate == 2e-3
    assert own.train.magnitude_learning_rate == pytest.approx(4e-3), "twice, as in the recipe"
    assert own.train.max_steps == 2
    own = load_recipe(jobs.prepare(final).recipe)
    assert (own.seed, own.train.max_steps) == (1, 8)


def test_what_is_over_and_what_is_tried_again(run: RunFolder, tiny_base: Path) -> None:
    jobs, (sweep, final) = jobs_of(run, tiny_base)
    assert jobs.look_up(sweep) is sweep
    jobs.prepare(sweep)
    assert jobs.look_up(sweep) is sweep, "prepared, and not over"

    def ended(**changes: object) -> JobRecord:
        """The job as the next command finds it."""
        file = JobFile.read(jobs.folder(sweep).path / "job.json")
        job = sweep.model_copy(update=changes)
        file.model_copy(update={"job": job}).write(jobs.folder(sweep).path / "job.json")
        return jobs_of(run, tiny_base)[0].look_up(sweep)

    assert ended(status="done", validation_loss=1.0).validation_loss == 1.0
    assert ended(status="failed", error="nan", diverged=True).diverged
    assert ended(status="failed", error="no memory").status == "waiting"
    assert jobs.look_up(final) is final


@pytest.mark.parametrize(
    ("again", "sections", "inputs"),
    [
        (False, {}, INPUTS),
        (False, {"compare": {"seeds": 3, "workers": 2}}, INPUTS),
        (False, {"eval": {"num_bins": 5}}, INPUTS),
        (True, {"train": {"batch_size": 2}}, INPUTS),
        (True, {"adapter": {"r": 2}}, INPUTS),
        (True, {}, {**INPUTS, "data": "another"}),
    ],
    ids=["same", "more seeds", "other bins", "batch", "rank", "data"],
)
def test_a_job_is_done_again_for_other_inputs(
    run: RunFolder,
    tiny_base: Path,
    again: bool,
    sections: dict[str, dict[str, object]],
    inputs: dict[str, str],
) -> None:
    jobs, (sweep, _) = jobs_of(run, tiny_base)
    file = JobFile.read(jobs.prepare(sweep).path / "job.json")
    done = sweep.model_copy(update={"status": "done"})
    file.model_copy(update={"job": done}).write(jobs.folder(sweep).path / "job.json")
    others, (same, _) = jobs_of(run, tiny_base, inputs, **sections)
    assert (others.look_up(same).status == "waiting") is again


def test_a_process_that_says_nothing_has_failed(run: RunFolder, tiny_base: Path) -> None:
    jobs, (_, final) = jobs_of(run, tiny_base)
    jobs.prepare(final)
    job = jobs.finish(final, "The process was ended by SIGKILL.", 2.0)
    assert (job.status, job.error, job.seconds) == (
        "failed",
        "The process was ended by SIGKILL.",
        2.0,
    )
    assert jobs.look_up(final) == job, "not again by this command"

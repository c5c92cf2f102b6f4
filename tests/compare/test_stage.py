"""Whole comparisons on a tiny model, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from doratune.compare import stage
from doratune.compare.answers import read_answers
from doratune.errors import DataError, JobsFailedError
from doratune.recipe import Recipe
from doratune.record.comparison import CompareFile
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, TrainFile
from tests.compare.comparisons import InlineEngine, prepared, recipe

FINALS = [f"{arm}/lr-1e-02/seed-{seed}" for arm in ("lora", "dora") for seed in (0, 1)]
SWEEP = [f"{arm}/sweep-0/lr-{rate}" for arm in ("lora", "dora") for rate in ("2e-03", "1e-02")]


def compared(
    run: RunFolder,
    settings: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[str], int | None] = lambda name: None,
) -> tuple[bool, list[str]]:
    """Compares; whether anything was done, and the jobs that were."""
    engine = InlineEngine(before)
    monkeypatch.setattr(stage, "open_engine", lambda *_: engine)
    return stage.compare_recipe(run, settings), engine.done


class Whole:
    """A comparison that is done, and is read only."""

    def __init__(self, run: RunFolder, settings: Recipe, done: list[str]) -> None:
        self.run, self.settings, self.done = run, settings, done
        self.file = CompareFile.read(run.compare)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    settings = recipe(folder, tiny_base, compare={"keep": "adapters"})
    run = prepared(folder / "run", settings)
    with pytest.MonkeyPatch.context() as patch:
        _, done = compared(run, settings, patch)
    return Whole(run, settings, done)


def test_every_job_is_done_once_and_listed(whole: Whole) -> None:
    names = [job.name for job in whole.file.jobs]
    assert sorted(whole.done) == sorted(names) == sorted(["base", *SWEEP, *FINALS])
    assert {job.status for job in whole.file.jobs} == {"done"}
    for job in whole.file.jobs:
        assert job.num_steps == {"sweep": 2, "final": 8}[job.stage] * (job.arm != "base")
        if job.arm != "base":
            train = TrainFile.read(RunFolder(whole.run.jobs / job.name).train)
            assert job.validation_loss == train.validation_loss
            assert (job.seconds, job.num_steps) == (train.seconds, train.num_steps)


def test_no_test_question_before_every_learning_rate_is_chosen(whole: Whole) -> None:
    assert set(whole.done[:4]) == set(SWEEP)
    for name in SWEEP:
        folder = whole.run.jobs / name
        assert not list(folder.rglob("test*"))
        assert not list(folder.rglob("answers*"))
        assert not (folder / "adapter").exists()
    assert all(job.test_metric is None for job in whole.file.jobs if job.stage == "sweep")


def test_figures_are_those_of_the_answers(whole: Whole) -> None:
    file, test = whole.file, DataFile.read(whole.run.data).splits["test"].num_examples
    assert [arm.arm for arm in file.arms] == ["base", "lora", "dora"]
    assert file.num_examples == test
    for arm in file.arms:
        names = [job.name for job in file.jobs if (job.arm, job.stage) == (arm.arm, "final")]
        read = [read_answers(RunFolder(whole.run.jobs / name)) for name in names]
        assert arm.answer_seconds == np.median([each.seconds for each in read])
        answers = [each.samples for each in read]
        right = np.array([[s.reference == s.prediction for s in each] for each in answers])
        assert arm.per_seed == pytest.approx(right.mean(axis=1).tolist())
        assert arm.value.value == pytest.approx(right.mean())
        assert arm.metrics["accuracy"] == pytest.approx(right.mean())
        assert arm.num_seeds == (1 if arm.arm == "base" else 2)
        assert {s.split for each in answers for s in each} == {"test"}
    by_arm = {arm.arm: arm for arm in file.arms}
    assert [pair.arm for pair in file.pairs] == ["base", "dora"]
    for pair in file.pairs:
        change = by_arm[pair.arm].value.value - by_arm["lora"].value.value
        assert pair.difference.value == pytest.approx(change)
    assert by_arm["dora"].num_trainable_parameters > by_arm["lora"].num_trainable_parameters
    assert file.verdict.startswith("On tiny, ")
    assert file.sweep.keys() == {"lora", "dora"}
    for arm, losses in file.sweep.items():
        assert float(min(losses, key=lambda rate: losses[rate])) == by_arm[arm].learning_rate


def test_what_each_training_changed_is_kept(whole: Whole) -> None:
    changes = whole.file.changes
    assert {(c.arm, c.seed) for c in changes} == {(a, s) for a in ("lora", "dora") for s in (0, 1)}
    assert len(changes) == 4 * 14
    assert all(c.direction_change > 0 for c in changes)
    assert {c.arm for c in whole.file.correlations} == {"lora", "dora"}


def test_the_budget_is_what_was_done(whole: Whole) -> None:
    budget = whole.file.budget
    assert "2 arms (LoRA, DoRA), 8 trainings: 4 in the sweep (each arm 2 of 2 steps)" in budget
    assert "4 final (2 seeds, 8 steps each)" in budget
    steps = sum(job.num_steps for job in whole.file.jobs)
    assert f"{steps} optimizer steps" in budget
    assert "Time: unknown until the first training has measured a step" in budget
    assert "one after the other" in budget


def test_the_same_command_again_does_nothing(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compared(whole.run, whole.settings, monkeypatch) == (False, [])
    elsewhere = whole.settings.compare.model_copy(update={"engine": "ray", "workers": 3})
    other = whole.settings.model_copy(update={"compare": elsewhere})
    assert compared(whole.run, other, monkeypatch) == (False, [])


@pytest.fixture
def small(tmp_path: Path, tiny_base: Path) -> tuple[RunFolder, Recipe]:
    """One arm, whose rate needs no sweep, and two seeds."""
    settings = recipe(
        tmp_path,
        tiny_base,
        train={"max_steps": 3},
        compare={"arms": ["lora"], "learning_rates": [5e-3]},
    )
    return prepared(tmp_path / "run", settings), settings


def test_only_what_is_missing_is_done_again(
    small: tuple[RunFolder, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, settings = small
    compared(run, settings, monkeypatch)
    first = CompareFile.read(run.compare)
    assert not list(run.jobs.rglob("adapter")), "keep: figures"
    more = settings.model_copy(update={"compare": settings.compare.model_copy(update={"seeds": 3})})
    monkeypatch.setattr(InlineEngine, "workers", 2)
    assert compared(run, more, monkeypatch) == (True, ["lora/lr-5e-03/seed-2"])
    second = CompareFile.read(run.compare)
    assert (first.num_earlier, second.num_earlier) == (0, 3)
    assert [job.workers for job in second.jobs] == [1, 1, 1, 2]
    shared = "2 jobs ran at a time, so that times and memory are those of shared machines."
    assert (shared in first.cautions, shared in second.cautions) == (False, True)
    assert second.arms[1].per_seed[:2] == first.arms[1].per_seed
    assert second.arms[1].num_seeds == 3
    assert "measured in earlier trainings" in second.budget


def test_a_job_that_dies_is_a_failed_job_and_is_tried_again(
    small: tuple[RunFolder, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, settings = small
    with pytest.raises(JobsFailedError) as failure:
        compared(run, settings, monkeypatch, lambda name: -9 if "seed-1" in name else None)
    assert "1 job failed:\n  lora/lr-5e-03/seed-1: The process was ended by SIGKILL" in str(
        failure.value
    )
    file = CompareFile.read(run.compare)
    assert [job.status for job in file.jobs] == ["done", "done", "failed"]
    assert file.arms[1].num_seeds == 1
    assert compared(run, settings, monkeypatch) == (True, ["lora/lr-5e-03/seed-1"])
    assert CompareFile.read(run.compare).arms[1].num_seeds == 2


def test_an_arm_that_diverges_is_reported_and_not_tried_again(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DoRA's magnitudes explode at this rate; with ``full`` a tenth of it does the same."""
    settings = recipe(
        tmp_path,
        tiny_base,
        train={"max_steps": 4, "max_grad_norm": 1e30, "warmup_share": 0.0},
        compare={"arms": ["lora", "full"], "learning_rates": [1e30], "seeds": 1},
    )
    run = prepared(tmp_path / "run", settings)
    done, jobs = compared(run, settings, monkeypatch)
    assert (done, len(jobs)) == (True, 3)
    file = CompareFile.read(run.compare)
    assert [(job.status, job.diverged) for job in file.jobs] == [
        ("done", False),
        ("failed", True),
        ("failed", True),
    ]
    assert [arm.arm for arm in file.arms] == ["base"]
    assert file.pairs == []
    assert file.verdict == (
        "On tiny nothing can be compared: LoRA, the reference, has no finished run."
    )
    told = [caution for caution in file.cautions if caution.startswith("Without a finished run")]
    assert len(told) == 2
    assert "training diverged" in told[0]
    assert compared(run, settings, monkeypatch) == (False, [])


def test_open_answers_are_compared_by_exact_match(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "sums.jsonl"
    rows = [{"instruction": f"{a} + {b}", "output": str(a + b)} for a in range(6) for b in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = recipe(
        tmp_path,
        tiny_base,
        data={"source": str(data)},
        train={"max_steps": 2},
        eval={"max_new_tokens": 2},
        compare={"arms": ["lora"], "learning_rates": [5e-3], "seeds": 1},
    )
    run = prepared(tmp_path / "run", settings)
    compared(run, settings, monkeypatch)
    file = CompareFile.read(run.compare)
    assert file.primary == "exact_match"
    assert "token_f1" in file.arms[1].metrics


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"validation_share": 0.0}, r"There are 0 validation examples; .* at least 1\. Learning"),
        ({"test_share": 0.0}, r"There are 0 test examples; .* at least 2\. Raise data\.test_share"),
        ({"format": "text"}, "The examples are plain text"),
    ],
    ids=["validation", "test", "text"],
)
def test_data_that_cannot_be_compared_on_is_refused_first(
    tmp_path: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: dict[str, object],
    message: str,
) -> None:
    settings = recipe(tmp_path, tiny_base, data=data)
    run = prepared(tmp_path / "run", settings)
    with pytest.raises(DataError, match=message):
        compared(run, settings, monkeypatch)
    assert not run.jobs.exists()

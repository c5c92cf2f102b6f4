"""From finished jobs to ``compare.json``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from doratune.compare.answers import read_answers
from doratune.compare.change import correlate_changes
from doratune.compare.job import CHANGES
from doratune.compare.setting import Setting
from doratune.compare.statistics import Outcomes, arm_value
from doratune.compare.sweep import Progress, last_losses
from doratune.compare.verdict import Verdict, conclude, judge_pairs
from doratune.errors import StorageError
from doratune.evaluate.figures import measure
from doratune.recipe import Recipe
from doratune.recipe.comparison import TrainedArm
from doratune.record.comparison import (
    ARMS,
    Arm,
    ArmFigures,
    CompareFile,
    JobRecord,
    MatrixChange,
)
from doratune.record.evaluation import primary_metric
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import TrainFile


class Effort(NamedTuple):
    """What a comparison took."""

    budget: str
    """What was said before it started."""
    num_jobs: int
    """Done by it; the others were over before."""
    seconds: float


class Finished:
    """One arm's final runs that are done, with their answers."""

    def __init__(self, run: RunFolder, arm: Arm, jobs: Sequence[JobRecord]) -> None:
        self.arm = arm
        self.jobs = [job for job in jobs if job.arm == arm and job.status == "done"]
        self.folders = [RunFolder(run.jobs / job.name) for job in self.jobs]
        self.answers = [read_answers(folder) for folder in self.folders]

    @property
    def outcomes(self) -> Outcomes:
        """The primary metric of every answer."""
        right = [[sample.correct for sample in answers.samples] for answers in self.answers]
        return Outcomes(np.array(right, np.float64), trained=self.arm != "base")


def make_result(
    run: RunFolder,
    recipe: Recipe,
    setting: Setting,
    swept: Mapping[TrainedArm, Progress],
    finals: Sequence[JobRecord],
    effort: Effort,
) -> CompareFile:
    """Everything that ``compare.json`` says.

    Args:
        run: The run folder of the comparison.
        recipe: Its recipe.
        setting: The arms.
        swept: How the sweep of each arm ended.
        finals: The final runs and the base's answers, over.
        effort: What it took.

    Raises:
        StorageError: Jobs have answered different questions.
    """
    data = setting.data
    arms: list[Arm] = ["base", *recipe.compare.arms]
    finished = {arm: found for arm in arms if (found := Finished(run, arm, finals)).jobs}
    _check_same_questions(finished)
    figures = [_figures(done, recipe, setting) for done in finished.values()]
    reference = recipe.compare.reference
    outcomes = {arm: done.outcomes for arm, done in finished.items()}
    primary = primary_metric(data.labels)
    changes = [
        change
        for done in finished.values()
        for folder in done.folders
        for change in MatrixChange.read_lines(folder.path / CHANGES)
    ]
    jobs = [*(job for progress in swept.values() for job in progress.sweep), *finals]
    file = CompareFile(
        task=recipe.name,
        primary=primary,
        split="test",
        num_examples=data.splits["test"].num_examples,
        reference=reference,
        arms=figures,
        pairs=judge_pairs(outcomes, figures, reference, primary) if reference in finished else [],
        verdict="",
        jobs=jobs,
        sweep={arm: last_losses(progress.sweep) for arm, progress in swept.items()},
        changes=changes,
        correlations=correlate_changes(changes, recipe.seed),
        budget=effort.budget,
        engine=recipe.compare.engine,
        seconds=effort.seconds,
        num_earlier=len(jobs) - effort.num_jobs,
    )
    missing = [arm for arm in arms if arm not in finished]
    verdict = _conclude(file, missing)
    return file.model_copy(update={"verdict": verdict.sentence, "cautions": verdict.cautions})


def _conclude(file: CompareFile, missing: Sequence[Arm]) -> Verdict:
    """The verdict, also where arms have no finished run."""
    if file.reference in missing:
        sentence = (
            f"On {file.task} nothing can be compared: {ARMS[file.reference]}, the reference, has no "
            "finished run."
        )
        verdict = Verdict(sentence, [])
    else:
        verdict = conclude(file)
    cautions = list(verdict.cautions)
    for arm in missing:
        reasons = [job.reason for job in file.jobs if job.arm == arm and job.status == "failed"]
        cautions.append(": ".join(["Without a finished run", ARMS[arm], *reasons[-1:]]))
    workers = max(job.workers for job in file.jobs if job.stage == "final")
    if workers > 1:
        cautions.append(
            f"{workers} jobs ran at a time, so that times and memory are those of shared machines."
        )
    return Verdict(verdict.sentence, cautions)


def _figures(done: Finished, recipe: Recipe, setting: Setting) -> ArmFigures:
    """An arm over its seeds."""
    outcomes = done.outcomes
    figures = ArmFigures(
        arm=done.arm,
        r=None,
        num_trainable_parameters=0,
        learning_rate=done.jobs[0].learning_rate,
        num_seeds=len(done.jobs),
        value=arm_value(outcomes),
        per_seed=outcomes.values.mean(axis=1).tolist(),
        answer_seconds=statistics.median(answers.seconds for answers in done.answers),
        metrics=_mean_metrics(done, recipe, setting.data.labels),
    )
    if done.arm == "base":
        return figures
    adapter = setting.recipes[done.arm].adapter
    trains = [TrainFile.read(folder.train) for folder in done.folders]
    return figures.model_copy(
        update={
            "r": None if adapter.method == "full" else adapter.r,
            "num_trainable_parameters": trains[0].num_trainable_parameters,
            "seconds": statistics.median(train.seconds for train in trains),
            "peak_memory_bytes": round(
                statistics.median(train.peak_memory_bytes for train in trains)
            ),
        }
    )


def _mean_metrics(done: Finished, recipe: Recipe, labels: list[str] | None) -> dict[str, float]:
    """Every metric of the evaluation, mean over seeds."""
    per_seed = [measure(answers.samples, labels, recipe.eval) for answers in done.answers]
    return {name: statistics.fmean(each[name] for each in per_seed) for name in per_seed[0]}


def _check_same_questions(finished: Mapping[Arm, Finished]) -> None:
    asked: dict[str, list[str]] = {}
    for done in finished.values():
        for job, answers in zip(done.jobs, done.answers, strict=True):
            asked[job.name] = [sample.id for sample in answers.samples]
    first = next(iter(asked), None)
    for name, ids in asked.items():
        if first is not None and ids != asked[first]:
            raise StorageError(
                f"The jobs {first} and {name} have answered different test questions, "
                f"{len(asked[first])} and {len(ids)}. Delete their folders in compare/ and run the "
                "same command again."
            )

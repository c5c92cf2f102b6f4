"""The door of the comparison: a recipe in; the jobs' folders and ``compare.json`` out."""

from __future__ import annotations

import time

from doratune.base import fingerprint, resolve_base
from doratune.base.load import require_bitsandbytes
from doratune.compare.arms import learning_rates
from doratune.compare.budget import describe_budget, measured_step_seconds
from doratune.compare.engine import Engine, open_engine
from doratune.compare.jobs import Jobs
from doratune.compare.result import Effort, make_result
from doratune.compare.schedule import Schedule
from doratune.compare.setting import Setting, make_setting
from doratune.data.review import require_review
from doratune.errors import DataError, JobsFailedError
from doratune.progress import console
from doratune.recipe import Recipe
from doratune.record.comparison import CompareFile, JobRecord
from doratune.record.files import digest_json
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile
from doratune.train.plan import check_trainable

LONGEST_LIST = 5
"""Failed jobs that an error names."""


def compare_recipe(run: RunFolder, recipe: Recipe) -> bool:
    """Trains every arm at its best learning rate over several seeds, and says what differs.

    Reads ``data.json`` and the splits; writes a run folder for each job into ``compare/``, then
    ``compare.json``. Jobs that are done are not done again, and a job that was stopped goes on from its
    last checkpoint. No job is given the test split before every learning rate is chosen.

    Returns:
        Whether anything was done; False when the comparison is up to date.

    Raises:
        ConfigError: The data is of a kind that cannot be trained on.
        DataError: A split that is needed is empty, the answers cannot be compared, or the data is not
            reviewed as the recipe demands.
        JobsFailedError: Jobs failed for another reason than that training diverged; what is left has
            been compared and written.
        DependencyError: The engine is not installed, or bitsandbytes, which an arm needs.
        ModelError: The base cannot be had.
    """
    data = DataFile.read(run.data)
    _check_data(data, recipe)
    require_review(run, recipe.data.gates.review)
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    made_of = {
        "base": fingerprint(base_path),
        "data": digest_json({name: split.ordered_digest for name, split in data.splits.items()}),
    }

    def work() -> None:
        run.compare.unlink(missing_ok=True)
        setting = make_setting(recipe, base_path, data)
        if any(own.model.quantize for own in setting.recipes.values()):
            require_bitsandbytes()
        engine = open_engine(recipe.compare.engine, recipe.compare.workers)
        try:
            file = _compare(recipe, setting, Jobs(run, recipe, setting.recipes, made_of), engine)
        finally:
            engine.stop()
        file.write(run.compare)
        failed = [job for job in file.jobs if job.status == "failed" and not job.diverged]
        if failed:
            raise JobsFailedError(_explain(failed, run))

    inputs = {**made_of, "settings": digest_json(_settings(recipe))}
    return run.run_stage("compare", inputs, [run.compare], work)


def _compare(recipe: Recipe, setting: Setting, jobs: Jobs, engine: Engine) -> CompareFile:
    started = time.monotonic()
    earlier = [jobs.run.steps, *sorted(jobs.run.jobs.rglob(jobs.run.steps.name))]
    budget = describe_budget(
        setting.costs, recipe, setting.data, engine, measured_step_seconds(earlier)
    )
    console.print(budget, highlight=False, markup=False)
    schedule = Schedule(setting.plans, jobs, engine)
    swept = schedule.sweep()
    for arm, progress in swept.items():
        if progress.sweep and progress.best is not None:
            console.print(f"Best learning rate of {arm}: {progress.best:g}", highlight=False)
    finals = schedule.finish(swept)
    effort = Effort(budget, schedule.num_ended, time.monotonic() - started)
    return make_result(jobs.run, recipe, setting, swept, finals, effort)


def _settings(recipe: Recipe) -> dict[str, object]:
    """What of a recipe the outcome depends on."""
    settings = recipe.model_dump(mode="json", include={"seed", "adapter", "train", "eval"})
    return {
        **settings,
        "compare": recipe.compare.model_dump(exclude={"engine", "workers", "keep"}),
        "model": recipe.model.model_dump(include={"dtype", "quantize"}),
        "template": recipe.data.template,
    }


def _check_data(data: DataFile, recipe: Recipe) -> None:
    """Refuses data on which nothing can be compared, before anything is trained."""
    check_trainable(data)
    if data.format == "text":
        raise DataError(
            "The examples are plain text, which asks nothing, so that there are no answers to compare."
        )
    needed = [
        ("train", 1, "Lower data.validation_share or data.test_share, or give more data."),
        ("test", 2, "Raise data.test_share, or give a data.test_source."),
    ]
    if any(len(learning_rates(recipe, arm)) > 1 for arm in recipe.compare.arms):
        remedy = "Raise data.validation_share, or give one rate only in compare.learning_rates."
        needed.append(("validation", 1, f"Learning rates are chosen on them. {remedy}"))
    sizes = {str(name): split.num_examples for name, split in data.splits.items()}
    for split, minimum, remedy in needed:
        if sizes.get(split, 0) < minimum:
            raise DataError(
                f"There are {sizes.get(split, 0)} {split} examples; a comparison needs at least "
                f"{minimum}. {remedy}"
            )


def _explain(failed: list[JobRecord], run: RunFolder) -> str:
    rows = [f"  {job.name}: {job.reason}" for job in failed[:LONGEST_LIST]]
    if len(failed) > LONGEST_LIST:
        rows.append(f"  and {len(failed) - LONGEST_LIST} more")
    count = "1 job" if len(failed) == 1 else f"{len(failed)} jobs"
    return "\n".join(
        [
            f"{count} failed:",
            *rows,
            f"What is left is compared in {run.compare}. Each job's folder in {run.jobs} has a log.txt. "
            "The same command tries the failed ones again, and does nothing else twice.",
        ]
    )

"""The jobs of a comparison as the comparison sees them: their folders, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping

from doratune.compare.job import JOB
from doratune.recipe import Recipe, write_recipe
from doratune.recipe.comparison import TrainedArm
from doratune.record.comparison import JobFile, JobRecord
from doratune.record.files import digest_json, link_or_copy
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Split


class Jobs:
    """Makes run folders for jobs, and knows which are over."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        recipes: Mapping[TrainedArm, Recipe],
        inputs: Mapping[str, str],
    ) -> None:
        """Keeps what jobs are made of.

        Args:
            run: The run folder of the comparison, with its data stage done.
            recipe: Its recipe.
            recipes: Those of the arms.
            inputs: Digests of base and data.
        """
        self.run, self.recipe, self.recipes, self.inputs = run, recipe, recipes, inputs
        self.over: dict[str, JobRecord] = {}

    def folder(self, job: JobRecord) -> RunFolder:
        """The run folder of a job, which need not exist yet."""
        return RunFolder(self.run.jobs / job.name)

    def look_up(self, job: JobRecord) -> JobRecord:
        """The job as it is known: over, or waiting.

        Of the jobs of earlier commands those are over that are done or diverged; others are tried again.
        """
        if job.name not in self.over:
            found = self._read(job)
            if found is None or not (found.status == "done" or found.diverged):
                return job
            self.over[job.name] = found
        return self.over[job.name]

    def prepare(self, job: JobRecord) -> RunFolder:
        """Makes the run folder of a job, with the splits that it may see and no others.

        They are links to the files of the comparison, or copies where there can be no links, so that
        every job sees the same bytes. A training of the sweep is not given the test split.
        """
        folder = self.folder(job)
        (folder.path / "data").mkdir(parents=True, exist_ok=True)
        splits: list[Split] = ["train", "validation"] if job.arm != "base" else []
        if job.stage == "final":
            splits.append("test")
        link_or_copy(self.run.data, folder.data)
        for split in splits:
            link_or_copy(self.run.examples(split), folder.examples(split))
        write_recipe(folder.recipe, self._recipe(job))
        JobFile(inputs=self._digest(job), job=job).write(folder.path / JOB)
        return folder

    def finish(self, job: JobRecord, reason: str, seconds: float) -> JobRecord:
        """Notes how a job ended.

        Args:
            job: Whose process has ended.
            reason: Why it ended, where the job itself has not said so.
            seconds: Since its start.
        """
        ended = self._read(job)
        if ended is None:
            ended = job.model_copy(update={"status": "failed", "error": reason, "seconds": seconds})
            JobFile(inputs=self._digest(job), job=ended).write(self.folder(job).path / JOB)
        self.over[job.name] = ended
        return ended

    def _read(self, job: JobRecord) -> JobRecord | None:
        file = self.folder(job).path / JOB
        if not file.exists():
            return None
        found = JobFile.read(file)
        if found.inputs != self._digest(job) or found.job.status == "waiting":
            return None
        return found.job

    def _recipe(self, job: JobRecord) -> Recipe:
        if job.arm == "base":
            return self.recipe.model_copy(update={"name": "base"})
        recipe = self.recipes[job.arm]
        changes: dict[str, object] = {"learning_rate": job.learning_rate}
        magnitude = recipe.train.magnitude_learning_rate
        if magnitude is not None and job.learning_rate is not None:
            ratio = magnitude / recipe.train.learning_rate
            changes["magnitude_learning_rate"] = job.learning_rate * ratio
        if job.stage == "sweep":
            changes["max_steps"] = job.num_steps
        return recipe.model_copy(
            update={
                "name": job.name.replace("/", "."),
                "seed": job.seed,
                "train": recipe.train.model_copy(update=changes),
            }
        )

    def _digest(self, job: JobRecord) -> str:
        recipe = self._recipe(job)
        settings: dict[str, object] = {
            "template": recipe.data.template,
            "model": recipe.model.model_dump(include={"dtype", "quantize"}),
        }
        if job.arm != "base":
            settings |= recipe.model_dump(mode="json", include={"seed", "adapter", "train"})
        if job.stage == "final":
            settings["max_new_tokens"] = recipe.eval.max_new_tokens
        return digest_json({**self.inputs, **settings})

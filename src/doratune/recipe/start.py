"""What every command writes into a run folder before it does anything there."""

from __future__ import annotations

from doratune.recipe.load import write_recipe
from doratune.recipe.schema import Recipe
from doratune.record.environment import read_environment
from doratune.record.files import digest_json
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import RecordFile


def start_run(run: RunFolder, recipe: Recipe) -> None:
    """Writes the resolved recipe, the environment, and the record with what earlier commands did.

    Args:
        run: A run folder that this process has locked.
        recipe: What is run.
    """
    digest = digest_json(recipe.model_dump(mode="json"))
    stages = RecordFile.read(run.record).stages if run.record.exists() else {}
    write_recipe(run.recipe, recipe)
    read_environment().write(run.environment)
    RecordFile(name=recipe.name, recipe_digest=digest, seed=recipe.seed, stages=stages).write(
        run.record
    )

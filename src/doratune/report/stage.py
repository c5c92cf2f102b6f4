"""The door of the stage: reads the run folder, writes ``report.html``."""

from __future__ import annotations

from doratune.recipe.schema import Recipe
from doratune.record.files import digest_bytes, write_text
from doratune.record.run_folder import RunFolder
from doratune.report.page import render


def write_report(run: RunFolder, recipe: Recipe) -> bool:
    """Writes the report of a run.

    Args:
        run: The run folder; whatever is missing in it is shown as not measured.
        recipe: Not read, as the page shows the recipe the folder holds; every door takes it.

    Returns:
        Whether anything was written; False if the report already says the same.

    Raises:
        StorageError: A record does not fit its schema, or the report cannot be written.
    """
    page = render(run)
    return run.run_stage(
        "report",
        # The page is a pure function of the records and cheap to make: it is its own input.
        {"page": digest_bytes(page.encode())},
        [run.report],
        lambda: write_text(run.report, page),
    )

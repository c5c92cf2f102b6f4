"""The doors: records of the run folder in, ``report.html`` or ``compare.html`` out."""

from __future__ import annotations

from pathlib import Path

from doratune.recipe.schema import Recipe
from doratune.record.files import digest_bytes, write_text
from doratune.record.run_folder import RunFolder
from doratune.report.comparison import render_comparison
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
    return _write(run, "report", render(run), run.report)


def write_comparison(run: RunFolder, recipe: Recipe) -> bool:
    """Writes the report of a comparison.

    Args:
        run: The run folder that holds ``compare.json``.
        recipe: Not read, as the page shows the recipe the folder holds; every door takes it.

    Returns:
        Whether anything was written; False if the report already says the same.

    Raises:
        StorageError: There is no comparison, a record does not fit its schema, or the report cannot
            be written.
    """
    return _write(run, "compare_report", render_comparison(run), run.compare_report)


def _write(run: RunFolder, stage: str, page: str, path: Path) -> bool:
    return run.run_stage(
        stage,
        # The page is a pure function of the records and cheap to make: it is its own input.
        {"page": digest_bytes(page.encode())},
        [path],
        lambda: write_text(path, page),
    )

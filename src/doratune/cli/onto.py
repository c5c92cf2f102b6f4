"""What an adapter of a quantised base is merged onto: the choice, and the figures to choose by."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from doratune.errors import ConfigError
from doratune.recipe import Recipe
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import ONTO, VerifyFile


def with_onto(recipe: Recipe, onto: str | None) -> Recipe:
    """The recipe with another ``merge.onto``, where one is given.

    Raises:
        ConfigError: It is none of the three.
    """
    if onto is None:
        return recipe
    if onto not in ONTO:
        raise ConfigError(f"--onto is {onto!r}; expected one of {', '.join(ONTO)}.")
    return recipe.model_copy(update={"merge": recipe.merge.model_copy(update={"onto": onto})})


def print_fidelity(run: RunFolder, to: Console) -> None:
    """Prints how far each choice is from the trained model; nothing where there is none."""
    file = VerifyFile.read(run.verify) if run.verify.exists() else None
    if file is None or not file.fidelity:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("merged onto", "size", "mean KL, nats", "same top token", "right answers"):
        table.add_column(title)
    for onto, found in file.fidelity.items():
        task = found.task
        right = (
            f"{task.num_right_approximate} of {task.num_examples} (trained {task.num_right}; "
            f"{task.num_lost} lost, {task.num_gained} gained)"
            if task
            else "not asked (--accuracy)"
        )
        table.add_row(
            f"{onto} (merged/)" if onto == file.onto else onto,
            f"{found.num_bytes / 2**20:,.0f} MiB",
            f"{found.mean_kl:.1e}",
            f"{found.top1_agreement:.2%}",
            right,
        )
    to.print(table)

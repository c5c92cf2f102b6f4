"""What a finished run has to say on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from doratune.recipe import Recipe
from doratune.record.evaluation import EvalFile, Interval
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import RecordFile, TrainFile, VerifyFile


def print_summary(run: RunFolder, recipe: Recipe) -> None:
    """Prints figures, the proof of the merge, times and where things are."""
    console = Console()
    if run.eval_file(recipe.eval.task).exists():
        _print_figures(EvalFile.read(run.eval_file(recipe.eval.task)), console)
    verify = VerifyFile.read(run.verify)
    console.print(
        f"Merged equals sidecar: same top token at {verify.top1_agreement:.2%} of "
        f"{verify.num_tokens:,} positions, mean KL {verify.mean_kl:.1e} nats ({verify.dtype})"
    )
    train = TrainFile.read(run.train)
    stages = RecordFile.read(run.record).stages
    console.print(
        f"Training: {train.seconds:.0f} s for {train.num_steps} steps "
        f"({train.num_tokens / train.seconds:,.0f} tokens/s); all stages: "
        f"{sum(entry.seconds for entry in stages.values()):.0f} s"
    )
    console.print(f"Report: {run.report}\nMerged model: {run.merged}\nAdapter: {run.adapter}")


def _print_figures(figures: EvalFile, console: Console) -> None:
    table = Table(
        "", "base", "tuned", title=f"{figures.num_examples} test examples, 95 % intervals",
        title_justify="left",
    )  # fmt: skip
    for name, key in (
        ("accuracy", "accuracy"),
        ("exact match", "exact_match"),
        ("macro-F1", "macro_f1"),
        ("calibration error", "ece"),
        ("answer loss (nats/token)", "answer_nll"),
    ):
        base, tuned = getattr(figures.base, key), getattr(figures.tuned, key)
        if base is not None and tuned is not None:
            table.add_row(name, _show(base), _show(tuned))
    console.print()
    console.print(table)
    change = figures.difference
    console.print(
        f"Difference on the same examples: {100 * change.value.value:+.1f} points "
        f"({100 * change.value.low:+.1f} to {100 * change.value.high:+.1f}), "
        f"McNemar p = {change.p_value:.2g}"
    )


def _show(figure: Interval) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"

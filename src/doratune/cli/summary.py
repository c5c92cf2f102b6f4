"""What a finished run has to say on the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from doratune.recipe import Recipe
from doratune.record.evaluation import METRICS, EvalFile, Interval, Metric
from doratune.record.latency import LatencyFile
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import RecordFile, TrainFile, VerifyFile

WIDE = 120
"""Columns of a terminal that has room for all intervals."""


def print_summary(run: RunFolder, recipe: Recipe) -> None:
    """Prints figures, the proof of the merge, times and where things are."""
    console = Console()
    if run.eval_file(recipe.eval.task).exists():
        print_figures(EvalFile.read(run.eval_file(recipe.eval.task)), console)
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
    if run.latency.exists():
        print_latency(LatencyFile.read(run.latency), console)
    if (page := run.completions / "completions.md").exists():
        console.print(f"Completions to read: {page}")
    console.print(f"Report: {run.report}\nMerged model: {run.merged}\nAdapter: {run.adapter}")


def print_latency(latency: LatencyFile, console: Console) -> None:
    """Prints the median times of all models, one line a kind of work."""
    rows: dict[str, list[str]] = {}
    for name, model in latency.models.items():
        for prefill in model.prefill:
            told = f"{name} {prefill.milliseconds.median:.0f}"
            rows.setdefault(f"ms to read {prefill.num_tokens} tokens", []).append(told)
        told = f"{name} {model.decode_milliseconds.median:.1f}"
        rows.setdefault("ms a decoded token", []).append(told)
    for what, told_of in rows.items():
        console.print(f"Latency, {what}: {', '.join(told_of)}")


def print_figures(figures: EvalFile, console: Console) -> None:
    """Prints every metric of base and tuned model, and what changed on the same examples.

    A narrow terminal has room for the intervals of the changes only.
    """
    whole = console.width >= WIDE
    table = Table(
        title=f"{figures.num_examples:,} test examples, with 95 % intervals; lower is better for ↓",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for name in ("base", "tuned", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, metric in METRICS.items():
        if name not in figures.differences:
            continue
        change = figures.differences[name].value
        table.add_row(
            f"{metric.title}{' %' * (metric.unit == 'share')}{' ↓' * (metric.better == 'lower')}",
            _show(figures.base.metrics[name], metric, whole),
            _show(figures.tuned.metrics[name], metric, whole),
            _show(change, metric, True, sign="+"),
            style=_style(change, metric),
        )
    console.print()
    console.print(table)
    change = figures.differences[figures.primary].value
    console.print(
        f"Difference on the same examples: {100 * change.value:+.1f} points of "
        f"{METRICS[figures.primary].title.lower()} ({100 * change.low:+.1f} to "
        f"{100 * change.high:+.1f}), McNemar p = {figures.differences[figures.primary].p_value:.2g}",
        highlight=False,
    )
    calibration = figures.tuned.calibration
    if calibration is not None and calibration.temperature is not None:
        error = calibration.scaled["ece"]
        console.print(
            f"Tuned, at a temperature of {calibration.temperature:.2f} fitted on "
            f"{calibration.num_validation:,} validation examples: calibration error "
            f"{error.value:.3f} ({error.low:.3f} to {error.high:.3f})",
            highlight=False,
        )
    elif calibration is not None:
        console.print(f"No temperature: {calibration.temperature_note}", highlight=False)


def _style(change: Interval, metric: Metric) -> str:
    """Green for a change for the better that chance does not explain, red for one for the worse."""
    if change.low <= 0 <= change.high:
        return ""
    return "green" if (change.value > 0) == (metric.better == "higher") else "red"


def _show(figure: Interval, metric: Metric, whole: bool, sign: str = "") -> str:
    numbers = [figure.value, figure.low, figure.high]
    value, low, high = (
        _number(100 * x if metric.unit == "share" else x, metric, sign) for x in numbers
    )
    return f"{value} ({low} to {high})" if whole else value


def _number(x: float, metric: Metric, sign: str) -> str:
    if metric.unit == "share":
        return f"{x:{sign}.1f}"
    if abs(x) < 1000:
        return f"{x:{sign}.3f}" if abs(x) < 10 else f"{x:{sign}.4g}"
    return f"{x:{sign},.0f}" if abs(x) < 1e6 else f"{x:{sign}.2e}"

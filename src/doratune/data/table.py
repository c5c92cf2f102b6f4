"""What the gates found and what is left, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from doratune.progress import console
from doratune.record.schemas import DataFile, GateExample, GateReport


def print_gates(reports: Sequence[GateReport]) -> None:
    """Prints one line a gate: what it did, what it found, and where for example."""
    table = Table(title="Data gates", title_justify="left")
    for name, justify in (
        ("gate", "left"),
        ("action", "left"),
        ("found", "right"),
        ("share", "right"),
        ("dropped", "right"),
        ("kinds and examples", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # the two are allowed
    for report in reports:
        if report.action == "off":
            table.add_row(report.gate, "off")
            continue
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in report.kinds.items())
        lines = [_clipped(kinds), *map(_line, report.examples), report.note]
        table.add_row(
            report.gate,
            report.action,
            f"{report.num_found:,}",
            f"{report.share:.1%}",
            f"{report.num_dropped:,}",
            escape("\n".join(filter(None, lines))),
        )
    console.print(table)


def print_splits(file: DataFile) -> None:
    """Prints what the rows have become: the splits, and what was left out and why."""
    splits = ", ".join(f"{name} {split.num_examples:,}" for name, split in file.splits.items())
    number = sum(source.num_rows for source in file.sources)
    lines = [f"{number:,} rows, read as {file.format} ({file.format_reason}): {splits}"]
    if file.dropped:
        reasons = sorted(file.dropped.items(), key=lambda item: -item[1])
        told = ", ".join(f"{reason} {count:,}" for reason, count in reasons)
        lines.append(f"Left out {sum(file.dropped.values()):,}, all in data/dropped.jsonl: {told}")
    console.print("\n".join(lines), markup=False, highlight=False)


def _line(example: GateExample) -> str:
    """An example without the folders before its file, which the line above the table has."""
    folder, slash, _ = example.place.rpartition("/")
    return _clipped(f"{example.place}: {example.why}".replace(folder + slash, ""))


def _clipped(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

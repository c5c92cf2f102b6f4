"""What the gates found and what is left, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from doratune.progress import console
from doratune.record.schemas import DataFile, GateReport


def print_gates(reports: Sequence[GateReport]) -> None:
    """Prints one line a gate: what it did, what it found, and where for example."""
    table = Table(title="Data gates", title_justify="left")
    for name, justify in (
        ("gate", "left"),
        ("action", "left"),
        ("found", "right"),
        ("share", "right"),
        ("dropped", "right"),
        ("for example", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # the two are allowed
    for report in reports:
        if report.action == "off":
            table.add_row(report.gate, "off")
            continue
        lines = [f"{_short(example.place)}: {_clipped(example.why)}" for example in report.examples]
        lines += [report.note] if report.note else []
        table.add_row(
            report.gate,
            report.action,
            f"{report.num_found:,}",
            f"{report.share:.1%}",
            f"{report.num_dropped:,}",
            escape("\n".join(lines)),
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


def _short(place: str) -> str:
    """A place without the folders before the file, which the line above the table has."""
    return place.rpartition("/")[2]


def _clipped(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

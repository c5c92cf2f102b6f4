"""What the gates found, as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from doratune.progress import console
from doratune.record.schemas import GateReport


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


def _short(place: str) -> str:
    """A place without the folders before the file, which the line above the table has."""
    return place.rpartition("/")[2]


def _clipped(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

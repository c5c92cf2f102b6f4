"""Writes docs/loss_curves.svg and the tables of docs/precision.md from what loss_curves.py measured.

`python docs/make_loss_curves.py`. A test holds them equal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "benchmarks" / "results" / "loss_curves.jsonl"

BOUND = 4
"""Two DoRAs agree if they differ no more than this many times as much as PEFT's DoRA differs from itself
after its A has been moved by one float32 rounding: the factor of tests/accuracy.py."""

FLOOR = "peft DoRA, float32, A +- 1 ulp"
LORA, DORA, OURS = "peft LoRA", "peft DoRA", "doratune DoRA"
COLOURS = {OURS: "#2a8cdb", DORA: "#e07b39", LORA: "#7a9a3a", FLOOR: "#999999"}
WINDOW = 20
WIDTH, HEIGHT, LEFT, GAP = 760, 190, 64, 62

Rows = dict[str, dict[str, Any]]
Line = tuple[str, str, Sequence[float]]


def read(path: Path = RESULTS) -> Rows:
    """The rows by arm."""
    return {row["arm"]: row for row in map(json.loads, path.read_text().splitlines())}


def differences(rows: Rows, arm: str, other: str) -> list[float]:
    """Loss of one minus loss of the other, at every step that both have."""
    return [a - b for a, b in zip(rows[arm]["losses"], rows[other]["losses"], strict=False)]


def agreement(rows: Rows) -> str:
    """The table of the float32 comparison."""
    pefts = rows[f"{DORA}, float32"]
    lines = [
        "| float32, against PEFT's DoRA | largest step | mean step | last step | update B A | m "
        "| validation loss |",
        "|---|---|---|---|---|---|---|",
        f"| PEFT's DoRA itself | | | | | | {pefts['validation']:.6f} |",
    ]
    for name, arm in (("PEFT's DoRA, A moved by one rounding", FLOOR), (OURS, f"{OURS}, float32")):
        off, away = differences(rows, arm, pefts["arm"]), rows[arm]["distance"]
        lines.append(
            f"| {name} | {max(map(abs, off)):.1e} | {fmean(map(abs, off)):.1e} | {off[-1]:+.1e} "
            f"| {away['update']:.1e} | {away['magnitude']:.1e} | {rows[arm]['validation']:.6f} |"
        )
    times = [f"{t:.2f} times" for t in times_floor(rows)]
    lines.append(f"| bound: {BOUND} times the floor | {times[0]} | {times[1]} | | | | |")
    return "\n".join(lines)


def times_floor(rows: Rows) -> tuple[float, float]:
    """Largest and mean difference of doratune from PEFT's DoRA, in units of the floor's."""
    found, floor = (
        [abs(d) for d in differences(rows, arm, f"{DORA}, float32")]
        for arm in (f"{OURS}, float32", FLOOR)
    )
    return max(found) / max(floor), fmean(found) / fmean(floor)


def mixed(rows: Rows) -> str:
    """The table of the bf16 comparison: all complete arms."""
    lines = [
        "| bf16 base, against float32 of the same method | update B A | m | mean step | last 100 steps "
        "| validation | of the adapter in float32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, row in rows.items():
        if ", bfloat16" not in arm or "distance" not in row:
            continue
        exact = f"{arm.split(',')[0]}, float32"
        off, away = differences(rows, arm, exact), row["distance"]
        cells = [f"{away['update']:.2%}"]
        cells.append(f"{away['magnitude']:.4%}" if "magnitude" in away else "")
        cells += [f"{fmean(map(abs, off)):.4f}", f"{fmean(off[-100:]):+.4f}"]
        for name in ("validation", "validation_in_float32"):
            cells.append(f"{row[name] - rows[exact]['validation']:+.4f}")
        lines.append(f"| {arm.replace(', bfloat16', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def survival(rows: Rows) -> str:
    """The table of what is left of the update."""
    arms = [arm for arm in rows if ", bfloat16" in arm and "ulp" not in arm]
    steps = [s for s in ("1", "5", "20", "100") if any(s in rows[a]["survival"] for a in arms)]
    head = " | ".join(f"after step {s}" for s in steps)
    lines = [f"| bf16 base | {head} |", "|---|" + "---|" * len(steps)]
    for arm in arms:
        seen = [rows[arm]["survival"].get(s) for s in steps]
        cells = ["" if s is None else f"{s['low_rank']:.2f} ({s['changed']:.0%})" for s in seen]
        lines.append(f"| {arm.replace(', bfloat16', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill(page: str, rows: Rows) -> str:
    """A page with its tables made anew, each between ``<!-- name -->`` and ``<!-- end -->``."""
    for table in (agreement, mixed, survival):
        pattern = rf"(<!-- {table.__name__} -->\n).*?(<!-- end -->)"
        page, found = re.subn(
            pattern, lambda m, t=table: f"{m[1]}{t(rows)}\n{m[2]}", page, flags=re.S
        )
        if found != 1:
            raise ValueError(f"the page has {found} places for the table {table.__name__!r}, not 1")
    return page


def smooth(values: Sequence[float]) -> list[float]:
    """Mean of each value and up to WINDOW - 1 before it."""
    return [fmean(values[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(values))]


def drawing(rows: Rows) -> str:
    """The plot: curves, their differences, and what bf16 changes."""
    dora = f"{DORA}, float32"
    ours = f"{OURS}, float32"
    curves = [(n, COLOURS[n], smooth(rows[f"{n}, float32"]["losses"])) for n in (DORA, OURS)]
    apart = [
        (name, colour, [math.log10(max(abs(d), 1e-8)) for d in differences(rows, arm, dora)])
        for name, colour, arm in (
            ("PEFT's DoRA, A moved by one rounding", COLOURS[FLOOR], FLOOR),
            ("doratune", COLOURS[OURS], ours),
        )
    ]
    lag = [
        (n, COLOURS[n], smooth(differences(rows, f"{n}, bfloat16", f"{n}, float32")))
        for n in (LORA, DORA, OURS)
    ]
    panels = [
        panel(0, f"Loss in float32, mean of {WINDOW} steps", curves, lambda v: f"{v:.1f}", 0.5),
        panel(1, "Difference from PEFT's DoRA, each step", apart, lambda v: f"1e{v:.0f}", 1.0),
        panel(
            2, f"bf16 minus float32 of the same method, mean of {WINDOW} steps", lag, _signed, 0.01
        ),
    ]
    height = 3 * (HEIGHT + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12" fill="#808080">\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}" if round(value, 2) else "0"


def panel(number: int, title: str, lines: Iterable[Line], label: Any, tick: float) -> str:
    """One set of axes. Grey text and mid-tone lines are readable on white and on black."""
    lines = list(lines)
    top, right = number * (HEIGHT + GAP) + 34, WIDTH - 12
    low = tick * math.floor(min(min(v) for _, _, v in lines) / tick)
    high = tick * math.ceil(max(max(v) for _, _, v in lines) / tick)
    last = max(len(v) for _, _, v in lines)
    parts = [f'<text x="{LEFT}" y="{top - 20}" font-weight="bold">{title}</text>']
    ticks = round((high - low) / tick)
    for i in range(0, ticks + 1, max(1, ticks // 6)):
        y = top + HEIGHT * (1 - i / ticks)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#808080" stroke-opacity=".3"/>')
        value = label(low + i * tick)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value}</text>')
    for step in range(0, last + 1, 50):
        x = LEFT + (right - LEFT) * step / last
        parts.append(
            f'<text x="{x:.0f}" y="{top + HEIGHT + 15}" text-anchor="middle">{step}</text>'
        )
    x = LEFT
    for name, colour, values in lines:
        points = " ".join(
            f"{LEFT + (right - LEFT) * (i + 1) / last:.0f},"
            f"{top + HEIGHT * (high - v) / (high - low):.1f}"
            for i, v in enumerate(values)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3"/>'
        )
        parts.append(f'<text x="{x}" y="{top - 5}" fill="{colour}">{name}</text>')
        x += 20 + 7 * len(name)
    return "\n".join(parts)


if __name__ == "__main__":
    found = read()
    (DOCS / "loss_curves.svg").write_text(drawing(found))
    PAGE = DOCS / "precision.md"
    PAGE.write_text(fill(PAGE.read_text(), found))

"""Writes docs/loss_curves.svg and the tables of docs/precision.md from what loss_curves.py measured.

`python docs/make_loss_curves.py`. A test holds them equal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
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
END = 100
"""Steps that count as the end of a training."""
WIDTH, HEIGHT, LEFT, GAP = 760, 190, 64, 62

FIRST = "seed 0, emulated"
"""The course in which all arms were run."""

Rows = dict[tuple[str, str], dict[str, Any]]
"""By arm, and course: the seed, and whether bf16 products were emulated."""
Line = tuple[str, str, Sequence[float]]


def read(path: Path = RESULTS) -> Rows:
    """The rows by arm and course."""
    found = map(json.loads, path.read_text().splitlines())
    return {(row["arm"], course(row)): row for row in found}


def course(row: dict[str, Any]) -> str:
    """Seed and arithmetic, in words."""
    return f"seed {row['seed']}" + (", emulated" if row["products"] == "emulated" else "")


def differences(rows: Rows, arm: str, other: str, where: str = FIRST) -> list[float]:
    """Loss of one minus loss of the other, at every step that both have."""
    losses = (rows[name, where]["losses"] for name in (arm, other))
    return [a - b for a, b in zip(*losses, strict=False)]


def lag(rows: Rows, arm: str, where: str) -> list[float]:
    """Loss of a bf16 arm minus that in float32 of the same method."""
    return differences(rows, arm, exact(rows, arm, where), where)


def exact(rows: Rows, arm: str, where: str) -> str:
    """The float32 arm of the same method. Of DoRA PEFT's or doratune's: `agreement` says how near."""
    names = (LORA,) if "LoRA" in arm else (DORA, OURS)
    return next(f"{name}, float32" for name in names if (f"{name}, float32", where) in rows)


def complete(rows: Rows) -> dict[str, list[str]]:
    """The bf16 arms that were trained to the end, and in which courses."""
    courses: dict[str, list[str]] = {}
    for (arm, where), row in rows.items():
        if ", bfloat16" in arm and "distance" in row:
            courses.setdefault(arm, []).append(where)
    return {arm: sorted(found) for arm, found in courses.items()}


def agreement(rows: Rows) -> str:
    """The table of the float32 comparison."""
    pefts = rows[f"{DORA}, float32", FIRST]
    lines = [
        "| float32, against PEFT's DoRA | largest step | mean step | last step | update B A | m "
        "| validation loss |",
        "|---|---|---|---|---|---|---|",
        f"| PEFT's DoRA itself | | | | | | {pefts['validation']:.6f} |",
    ]
    for name, arm in (("PEFT's DoRA, A moved by one rounding", FLOOR), (OURS, f"{OURS}, float32")):
        row = rows[arm, FIRST]
        off, away = differences(rows, arm, pefts["arm"]), row["distance"]
        lines.append(
            f"| {name} | {max(map(abs, off)):.1e} | {fmean(map(abs, off)):.1e} | {off[-1]:+.1e} "
            f"| {away['update']:.1e} | {away['magnitude']:.1e} | {row['validation']:.6f} |"
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
    """The table of the bf16 comparison: means over courses."""
    lines = [
        "| bf16 base, against float32 | trainings | update B A | m | mean step | steps 1 to 60 "
        "| validation | of the adapter in float32 | KL |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, courses in complete(rows).items():
        found = [rows[arm, where] for where in courses]
        away = [row["distance"] for row in found]
        off = [lag(rows, arm, where) for where in courses]
        cells = [str(len(courses)), f"{fmean(d['update'] for d in away):.2%}"]
        cells.append(f"{fmean(d['magnitude'] for d in away):.4%}" if "DoRA" in arm else "")
        cells.append(f"{fmean(abs(d) for each in off for d in each):.4f}")
        cells.append(_with_error([fmean(each[:60]) for each in off]))
        true = [rows[exact(rows, arm, where), where]["validation"] for where in courses]
        for name in ("validation", "validation_in_float32"):
            cells.append(_with_error([row[name] - v for row, v in zip(found, true, strict=True)]))
        apart = [row["divergence"] for row in found if "divergence" in row]
        cells.append(f"{1000 * fmean(apart):.2f}e-3" if apart else "")
        lines.append(f"| {arm.replace(', bfloat16', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ends(rows: Rows) -> str:
    """The table of the last steps: by course, on average, and paired with the peers."""
    arms = complete(rows)
    everything = sorted({where for courses in arms.values() for where in courses})
    heads = [f"last {END} steps, bf16 minus float32", *everything]
    heads += ["mean", "minus LoRA's", "minus PEFT DoRA's"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for arm, courses in arms.items():
        gaps = {where: end(rows, arm, where) for where in courses}
        cells = [f"{gaps[where]:+.4f}" if where in gaps else "" for where in everything]
        cells.append(_with_error(list(gaps.values())))
        for peer in (f"{LORA}, bfloat16", f"{DORA}, bfloat16"):
            shared = [where for where in courses if where in arms[peer] and arm != peer]
            paired = [gaps[where] - end(rows, peer, where) for where in shared]
            cells.append(_with_error(paired) if paired else "")
        lines.append(f"| {arm.replace(', bfloat16', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def end(rows: Rows, arm: str, where: str) -> float:
    """Mean of the last steps' `lag`."""
    return fmean(lag(rows, arm, where)[-END:])


def _with_error(values: Sequence[float]) -> str:
    """Mean, and its standard error over trainings."""
    if len(values) < 2:
        return f"{values[0]:+.4f}"
    return f"{fmean(values):+.4f} ({stdev(values) / math.sqrt(len(values)):.4f})"


def survival(rows: Rows) -> str:
    """The table of what is left of the update."""
    seen = {arm: row["survival"] for (arm, where), row in rows.items() if where == FIRST}
    seen = {arm: at for arm, at in seen.items() if ", bfloat16" in arm and "ulp" not in arm}
    steps = [s for s in ("1", "5", "20", "100") if any(s in at for at in seen.values())]
    head = " | ".join(f"after step {s}" for s in steps)
    lines = [f"| bf16 base | {head} |", "|---|" + "---|" * len(steps)]
    for arm, at in seen.items():
        shares = [at.get(s) for s in steps]
        cells = ["" if s is None else f"{s['low_rank']:.2f} ({s['changed']:.0%})" for s in shares]
        lines.append(f"| {arm.replace(', bfloat16', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill(page: str, rows: Rows) -> str:
    """A page with its tables made anew, each between ``<!-- name -->`` and ``<!-- end -->``."""
    for table in (agreement, mixed, ends, survival):
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
    curves = [(n, COLOURS[n], smooth(rows[f"{n}, float32", FIRST]["losses"])) for n in (DORA, OURS)]
    apart = [
        (name, colour, [math.log10(max(abs(d), 1e-8)) for d in differences(rows, arm, dora)])
        for name, colour, arm in (
            ("PEFT's DoRA, A moved by one rounding", COLOURS[FLOOR], FLOOR),
            ("doratune", COLOURS[OURS], ours),
        )
    ]
    courses = complete(rows)
    behind = [
        (n, COLOURS[n], smooth([fmean(step) for step in zip(*each, strict=True)]))
        for n in (LORA, DORA, OURS)
        for each in [[lag(rows, f"{n}, bfloat16", c) for c in courses[f"{n}, bfloat16"]]]
    ]
    panels = [
        panel(0, f"Loss in float32, mean of {WINDOW} steps", curves, lambda v: f"{v:.1f}", 0.5),
        panel(1, "Difference from PEFT's DoRA, each step", apart, lambda v: f"1e{v:.0f}", 1.0),
        panel(
            2,
            f"bf16 minus float32, mean of all trainings and {WINDOW} steps",
            behind,
            _signed,
            0.01,
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

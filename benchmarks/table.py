"""Writes docs/results.md, and the README's part between its markers, from the committed rows.

python benchmarks/table.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python benchmarks/table.py`

from benchmarks.parts.rows import OURS, ROOT, Row, read_rows

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
UNITS = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1.0, "B")),
}


class Target(NamedTuple):
    """A ratio of ours to a peer that issue and README promise."""

    text: str
    peer: str
    limit: float
    benchmark: str
    device: str = "cpu"
    metrics: tuple[str, ...] = ()
    dtype: str = ""

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Ours against that peer, in every setting the target speaks of."""
        return [
            row
            for row in rows
            if row.provider == OURS
            and row.ratio_to == self.peer
            and row.benchmark == self.benchmark
            and is_gpu(row) == (self.device == "cuda")
            and (not self.metrics or row.metric in self.metrics)
            and self.dtype in ("", row.dtype)
        ]


DTYPES = {"bfloat16": "bf16", "float32": "float32"}
TARGETS = (
    *(
        Target(f"training step, SmolLM2-135M, {name}", peer, limit, "train_step", dtype=dtype)
        for peer, limit in (("peft LoRA", 1.00), ("peft DoRA", 0.70))
        for dtype, name in DTYPES.items()
    ),
    *(
        Target(f"one 4096 x 4096 layer, {name}", "peft LoRA", 1.03, "layer", dtype=dtype)
        for dtype, name in DTYPES.items()
    ),
    *(
        Target(
            f"bytes saved for backward, per layer of a model, {name}",
            "peft LoRA",
            1.00,
            "memory",
            metrics=("saved_per_layer",),
            dtype=dtype,
        )
        for dtype, name in DTYPES.items()
    ),
    Target(
        "bytes saved for backward, a layer alone", "peft LoRA", 1.00, "memory", metrics=("saved",)
    ),
    Target("peak memory of a step", "peft LoRA", 1.00, "memory", metrics=("step_peak",)),
    Target("training step, NF4 base", "peft LoRA", 1.02, "quantized_step"),
    Target("decoding, one token at a time", "peft LoRA", 1.00, "decode"),
    Target("`enable_fast_dora`, 7B layers", "one read", 1.30, "enable"),
    Target("merging 1.3 GB in bf16", "plain copy", 1.43, "merge"),  # 0.7 of its throughput
    Target("GPU: one layer, bf16", "peft LoRA", 1.00, "layer", "cuda", dtype="bfloat16"),
    Target("GPU: one layer, bf16", "peft DoRA", 0.60, "layer", "cuda", dtype="bfloat16"),
    Target("GPU: one layer, bf16", "fused LoRA (own)", 1.05, "layer", "cuda", dtype="bfloat16"),
    Target("GPU: training step", "peft LoRA", 1.00, "train_step", "cuda"),
    Target("GPU: training step", "peft DoRA", 0.60, "train_step", "cuda"),
    Target("GPU: training step", "fused LoRA (own)", 1.05, "train_step", "cuda"),
    Target("GPU: peak memory", "peft LoRA", 1.00, "memory", "cuda", metrics=("step_peak",)),
)


def main() -> None:
    """Rewrites both files."""
    rows = all_rows()
    PAGE.write_text(page(rows))
    text = README.read_text()
    if BEGIN in text:
        README.write_text(with_summary(text, rows))


def all_rows() -> list[Row]:
    """The committed rows, file by file."""
    files = [RESULTS / f"{device}.jsonl" for device in ("cpu", "cuda")]
    return [row for path in files if path.exists() for row in read_rows(path)]


def with_summary(readme: str, rows: Sequence[Row]) -> str:
    """The README with the part between the markers made anew."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{summary(rows)}{END}{tail}"


def summary(rows: Sequence[Row]) -> str:
    """Targets against what was measured; the worst setting of each counts."""
    lines = [
        "| doratune's DoRA: | against | ratio, worst setting | settings | aim | command |",
        "|---|---|---|---|---|---|",
    ]
    for target in TARGETS:
        found = target.rows(rows)
        run = f"`python benchmarks/run.py {target.benchmark}"
        run += f" --device {target.device}`" if target.device != "cpu" else "`"
        if found:
            worst = max(found, key=lambda row: row.ratio_p50)
            met = "met" if worst.ratio_p50 <= target.limit else "missed"
            cells = [ratio(worst), str(len(found)), f"{target.limit:.2f}: {met}"]
        else:
            cells = ["not measured", "0", f"{target.limit:.2f}"]
        lines.append("| " + " | ".join([target.text, target.peer, *cells, run]) + " |")
    return "\n".join(lines) + "\n"


def page(rows: Sequence[Row]) -> str:
    """The whole of docs/results.md."""
    parts = [
        "# Results\n\n"
        "Generated by `python benchmarks/table.py` from `benchmarks/results/`. Do not edit.\n\n"
        "A ratio is the median over rounds in which the providers took turns in one process, with its\n"
        "20th and 80th percentile; below 1 is cheaper than the peer. A setting is reported only after\n"
        "all its providers were found as near to float64 as plain PyTorch is\n"
        "([how](../benchmarks/README.md)).\n\n"
        f"## Aims\n\n{summary(rows)}"
    ]
    for device, threads in dict.fromkeys((row.device, row.threads) for row in rows):
        here = [row for row in rows if (row.device, row.threads) == (device, threads)]
        parts.append(f"\n## {device}, {threads} threads, torch {joined(r.torch for r in here)}\n")
        for benchmark, metric in dict.fromkeys((row.benchmark, row.metric) for row in here):
            chosen = [row for row in here if (row.benchmark, row.metric) == (benchmark, metric)]
            parts.append(f"\n### {benchmark}: {metric}\n\n{table(chosen)}")
    return "".join(parts)


def table(rows: Sequence[Row]) -> str:
    """All providers of all settings; one column for each peer."""
    peers = list(dict.fromkeys(row.ratio_to for row in rows))
    heads = ["op", "shape", "dtype", "dropout", "provider", "median (20 % to 80 %)", "n"]
    heads += [f"÷ {peer}" for peer in peers] + ["commit"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for setting, provider in dict.fromkeys((row.setting(), row.provider) for row in rows):
        own = [r for r in rows if (r.setting(), r.provider) == (setting, provider)]
        first = own[0]
        by_peer = {row.ratio_to: ratio(row) for row in own}
        cells = [
            first.op,
            first.shape,
            first.dtype,
            f"{first.dropout:g}",
            f"{provider} {first.version}",
            figure(first),
            str(first.n),
            *(by_peer.get(peer, "") for peer in peers),
            first.commit[:10] + ("-dirty" if first.commit.endswith("-dirty") else ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(row: Row) -> str:
    """Median with its spread, in a unit of readable size."""
    size, unit = next((u for u in UNITS[row.unit] if row.p50 >= u[0]), UNITS[row.unit][-1])
    if row.n == 1:
        return f"{row.p50 / size:.4g} {unit}"
    return f"{row.p50 / size:.3g} {unit} ({row.p20 / size:.3g} to {row.p80 / size:.3g})"


def ratio(row: Row) -> str:
    """Ratio with its spread."""
    if row.n == 1 or row.provider == row.ratio_to:
        return f"{row.ratio_p50:.2f}"
    return f"{row.ratio_p50:.2f} ({row.ratio_p20:.2f} to {row.ratio_p80:.2f})"


def is_gpu(row: Row) -> bool:
    """Whether the row is from a GPU."""
    return any(word in row.device for word in ("NVIDIA", "Tesla", "GeForce", "Quadro"))


def joined(words: object) -> str:
    """Each once."""
    return ", ".join(dict.fromkeys(words))  # type: ignore[call-overload]


if __name__ == "__main__":
    main()

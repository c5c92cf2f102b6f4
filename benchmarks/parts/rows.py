"""One measurement is one row: figure, unit, spread and n, ratio to a named peer, and where it ran."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

OURS = "doratune DoRA"
ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = {"peft LoRA": "peft", "peft DoRA": "peft", "torchtune DoRA": "torchtune"}


@dataclass(frozen=True)
class Row:
    """One provider's figure in one setting, against one peer."""

    benchmark: str
    op: str
    provider: str
    version: str
    shape: str
    dtype: str
    dropout: float
    metric: str
    unit: str
    p20: float
    p50: float
    p80: float
    ratio_to: str
    ratio_p20: float
    ratio_p50: float
    ratio_p80: float
    n: int
    device: str
    threads: int
    torch: str
    commit: str

    def key(self) -> tuple[object, ...]:
        """What was measured and where; a newer row with the same key replaces an older one."""
        return (*self.setting(), self.provider, self.ratio_to)

    def setting(self) -> tuple[object, ...]:
        """What the providers of one comparison have in common."""
        return (
            self.benchmark,
            self.op,
            self.shape,
            self.dtype,
            self.dropout,
            self.metric,
            self.device,
            self.threads,
        )


COLUMNS = tuple(field.name for field in fields(Row))


def rows_of(
    samples: Mapping[str, Sequence[float]],
    *,
    benchmark: str,
    op: str,
    shape: str,
    dtype: str,
    dropout: float,
    metric: str,
    unit: str,
    device: str,
    peers: Sequence[str],
    versions: Mapping[str, str] | None = None,
) -> list[Row]:
    """The rows of one setting.

    Args:
        samples: By provider, one figure a round; round i of all of them ran side by side.
        benchmark: The question.
        op: What ran: ``"model"``, ``"linear"``, ...
        shape: Sizes, in words.
        dtype: Of the base weights.
        dropout: Of the low-rank branch.
        metric: What the figure is.
        unit: Its unit.
        device: ``"cpu"`` or ``"cuda"``.
        peers: Ours is compared with each of them, everybody else with the first.
        versions: By provider, where it is not of this environment.
    """
    rows = []
    for provider, figures in samples.items():
        for peer in peers if provider == OURS else peers[:1]:
            if peer not in samples:
                continue
            ratios = [a / b for a, b in zip(figures, samples[peer], strict=True)]
            p20, p50, p80 = spread(figures)
            ratio_p20, ratio_p50, ratio_p80 = spread(ratios)
            row = Row(
                benchmark=benchmark,
                op=op,
                provider=provider,
                version=(versions or {}).get(provider) or _version(provider),
                shape=shape,
                dtype=dtype,
                dropout=dropout,
                metric=metric,
                unit=unit,
                p20=p20,
                p50=p50,
                p80=p80,
                ratio_to=peer,
                ratio_p20=ratio_p20,
                ratio_p50=ratio_p50,
                ratio_p80=ratio_p80,
                n=len(figures),
                device=device_name(device),
                threads=torch.get_num_threads(),
                torch=torch.__version__,
                commit=commit(),
            )
            rows.append(row)
    return rows


def spread(figures: Sequence[float]) -> tuple[float, float, float]:
    """20th percentile, median and 80th percentile, by the nearest figure below and above."""
    ordered = sorted(figures)
    fifth = len(ordered) // 5
    return ordered[fifth], statistics.median(ordered), ordered[-1 - fifth]


def read_rows(path: Path) -> list[Row]:
    """Rows of a file.

    Raises:
        ValueError: A line has other columns than `COLUMNS`.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        values = json.loads(line)
        if tuple(values) != COLUMNS:
            raise ValueError(
                f"{path}:{number} has the columns {list(values)}; expected {list(COLUMNS)}."
            )
        rows.append(Row(**values))
    return rows


def write_rows(path: Path, new: Iterable[Row]) -> None:
    """Adds rows to a file, each in the place of the older one with the same key."""
    rows = {row.key(): row for row in read_rows(path)} if path.exists() else {}
    rows.update({row.key(): row for row in new})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows.values()))
    temporary.replace(path)


def device_name(device: str) -> str:
    """The GPU's name, or the processor's with its instruction set: one name has many machines."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return f"{names[0] if names else 'cpu'}, {torch.backends.cpu.get_cpu_capability()}"


@cache
def commit() -> str:
    """The commit measured; ``BENCH_COMMIT`` names it where the tree travels without its history."""
    if given := os.environ.get("BENCH_COMMIT"):
        return given
    head = _git("rev-parse", "HEAD")
    # Rows written by the last question change the tree, but not what the next one measures.
    code = ("src", "benchmarks", ":(exclude)benchmarks/results")
    dirty = "-dirty" if head and _git("status", "--porcelain", "--", *code) else ""
    return f"{head}{dirty}" or "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _version(provider: str) -> str:
    if package := _PACKAGES.get(provider.removesuffix(" compiled")):
        return metadata.version(package)
    import doratune

    return doratune.__version__  # own implementations of other methods live in this repository

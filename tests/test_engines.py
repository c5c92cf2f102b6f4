"""Engines in environments of their own: the worker, its gate and the rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import engines
from benchmarks.parts.engine_worker import serve
from benchmarks.parts.gate import RedGateError
from benchmarks.parts.rows import OURS
from safetensors.torch import load_file, save_file


def first(engine: str, setting: engines.Setting, starts: dict[str, Path]) -> dict[str, Any]:
    """What the engine's first step finds, by method, in this process."""
    plan = {
        "engine": engine,
        "folder": str(setting.folder),
        "ids": [[5, 6, 7, 8, 9, 10]],
        "r": setting.r,
        "threads": 1,
        "starts": {method: str(path) for method, path in starts.items()},
    }
    answers: list[Any] = []
    serve(plan, iter([json.dumps(["first", method]) for method in starts]), answers.append)
    versions, *found = answers
    assert set(versions) == {engine, "peft", "transformers", "torch"}
    return {f"{engine} {method}": values for method, values in zip(starts, found, strict=True)}


@pytest.fixture
def setting(tiny_base: Path) -> engines.Setting:
    return engines.Setting("tiny", tiny_base, 2, 8, 4)


def test_the_gate_passes_fast_layers_and_sees_another_start(
    setting: engines.Setting, tmp_path: Path
) -> None:
    starts = engines.save_starts(setting, tmp_path)
    found = first("peft", setting, starts) | first("doratune", setting, starts)
    assert "gradient of magnitude" in found[OURS]
    engines.check(found)
    values = load_file(starts["DoRA"])
    name = next(name for name in values if "magnitude" in name)
    save_file(values | {name: values[name] * 1.1}, tmp_path / "other.safetensors")
    found |= first("doratune", setting, {"DoRA": tmp_path / "other.safetensors"})
    with pytest.raises(RedGateError, match="doratune DoRA: "):
        engines.check(found)


def test_an_engine_that_trains_something_else_is_refused(
    setting: engines.Setting, tmp_path: Path
) -> None:
    starts = engines.save_starts(setting, tmp_path)
    with pytest.raises(ValueError, match=r"DoRA: trained here or started from, not both: .*magnit"):
        first("peft", setting, {"DoRA": starts["LoRA"]})


def test_a_worker_of_another_interpreter_gives_rows(setting: engines.Setting) -> None:
    rows = engines.measure(setting, {"peft": sys.executable}, 0)
    assert [(row.provider, row.ratio_to) for row in rows] == [
        ("peft LoRA", "peft LoRA"),
        ("peft DoRA", "peft LoRA"),
    ]
    assert all(row.benchmark == "engines" and row.n >= 3 and row.p50 > 0 for row in rows)


def test_a_worker_that_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"peft ended:\n(.*\n)*.*KeyError: 'threads'"):
        engines.Worker(sys.executable, {"engine": "peft"}, tmp_path / "plan.json")

"""The benchmarks run, count right, and refuse to report what is wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from benchmarks import memory, merge, run, scoring, table
from benchmarks.parts import fused_lora, gate, providers
from benchmarks.parts.models import OneLayer, noise
from benchmarks.parts.rows import COLUMNS, OURS, Row, read_rows, rows_of, write_rows
from benchmarks.parts.timing import Action, take_turns
from safetensors.torch import load_file, save_file
from torch import nn

SLOW = {"compile"}


@pytest.mark.parametrize(
    "question",
    [pytest.param(q, marks=pytest.mark.slow if q in SLOW else ()) for q in run.QUESTIONS],
)
def test_every_question_runs_and_writes_valid_rows(question: str, tmp_path: Path) -> None:
    if question == "quantized_step" and not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is not installed")
    if question == "scoring" and (reason := scoring.why_not()):
        pytest.skip(reason)
    out = tmp_path / "rows.jsonl"
    assert run.run(question, "cpu", True, None, out) == []
    rows = read_rows(out)
    assert {row.benchmark for row in rows} == {question}
    for row in rows:
        assert 0 < row.p20 <= row.p50 <= row.p80
        assert 0 < row.ratio_p20 <= row.ratio_p50 <= row.ratio_p80
        assert row.unit in table.UNITS
    ours = [row for row in rows if row.provider in (OURS, scoring.OURS)]
    settings = {row.setting() for row in rows}
    assert {row.setting() for row in ours} == settings
    peer = {"enable": "one read", "scoring": scoring.HFLM, "merge": merge.COPY}.get(
        question, "peft LoRA"
    )
    assert {row.ratio_to for row in ours} >= {peer}
    assert str(tmp_path) not in table.page(rows)


class WrongScaling(fused_lora.FusedLoraLinear):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.scaling *= 1.001


def test_a_red_gate_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(providers._OWN, providers.FUSED_LORA, WrongScaling)
    failed = run.run("layer", "cpu", True, None, tmp_path / "rows.jsonl")
    assert len(failed) == 1
    assert "RedGateError: fused LoRA (own): output is" in failed[0]
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_wrong_merge_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(base: Path, adapter: Path, target: Path, dtype: str) -> None:
        right(base, adapter, target, dtype)
        file = sorted(target.glob("*.safetensors"))[-1]
        tensors = load_file(file)
        name = next(name for name in tensors if "q_proj" in name)
        save_file({**tensors, name: tensors[name] * 1.01}, file)

    right = merge.merge
    monkeypatch.setattr(merge, "merge", wrong)
    failed = run.run("merge", "cpu", True, None, tmp_path / "rows.jsonl")
    assert len(failed) == 1
    assert "q_proj is" in failed[0]
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize("provider", providers.EVERYBODY)
@pytest.mark.parametrize("kind", ["lora_a", "lora_b", "magnitude"])
def test_the_gate_sees_each_wrong_gradient(provider: str, kind: str) -> None:
    if kind == "magnitude" and not providers.is_dora(provider):
        pytest.skip("LoRA has no magnitude")
    base = OneLayer(48, 32, torch.float32, "cpu")
    model = providers.adapted(base, provider, 4, targets="linear")
    batch = gate.layer_run(noise((20, 48), "cpu", 1), noise((20, 32), "cpu", 2))
    gate.check(base, {provider: model}, batch, 4, targets="linear")
    for parameter in providers.trainable(model)[kind]:
        parameter.register_hook(lambda gradient: gradient * 1.001)
    with pytest.raises(gate.RedGateError, match=f"gradient of {kind}"):
        gate.check(base, {provider: model}, batch, 4, targets="linear")


@pytest.mark.parametrize("provider", [providers.FUSED_LORA, providers.FACTORED_DORA])
def test_own_peers_drop_as_peft_does(provider: str) -> None:
    """One seed, one mask: PyTorch's generator draws it for both."""
    base = OneLayer(48, 32, torch.float64, "cpu")
    theirs = providers.PEFT_DORA if providers.is_dora(provider) else providers.PEFT_LORA
    batch = gate.layer_run(noise((20, 48), "cpu", 1), noise((20, 32), "cpu", 2))
    results = []
    for name in (provider, theirs):
        model = providers.adapted(base, name, 4, 0.3, targets="linear").double()
        torch.manual_seed(7)
        parts = batch(model)
        gradients = {kind: group[0].grad for kind, group in providers.trainable(model).items()}
        results.append(parts | gradients)
    for name, value in results[1].items():
        distance = (results[0][name] - value).norm() / value.norm()
        # The factored norm is float32, as its authors make it; LoRA has none.
        assert distance < (1e-6 if providers.is_dora(provider) else 1e-12), name


def test_ratios_are_taken_within_rounds() -> None:
    rows = rows_of(
        {"peft LoRA": [1.0, 2.0, 8.0], OURS: [3.0, 1.0, 2.0]},
        benchmark="layer",
        op="linear",
        shape="s",
        dtype="float32",
        dropout=0.0,
        metric="m",
        unit="s",
        device="cpu",
        peers=("peft LoRA", "peft DoRA"),
    )
    assert [(row.provider, row.ratio_to) for row in rows] == [
        ("peft LoRA", "peft LoRA"),
        (OURS, "peft LoRA"),
    ]
    assert (rows[1].ratio_p20, rows[1].ratio_p50, rows[1].ratio_p80) == (0.25, 0.5, 3.0)
    assert (rows[0].p20, rows[0].p50, rows[0].p80, rows[0].n) == (1.0, 2.0, 8.0, 3)


def test_a_newer_row_takes_the_older_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    old = _row(p50=2.0, commit="a")
    write_rows(path, [old, _row(shape="other")])
    write_rows(path, [_row(p50=3.0, commit="b")])
    assert [(row.shape, row.p50) for row in read_rows(path)] == [("s", 3.0), ("other", 1.0)]


def test_rows_with_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    values = dataclasses.asdict(_row())
    del values["commit"]
    path.write_text(json.dumps(values) + "\n")
    with pytest.raises(ValueError, match=r"rows.jsonl:1 has the columns"):
        read_rows(path)
    assert len(COLUMNS) == 21


def test_providers_take_turns() -> None:
    calls: list[str] = []

    def action(name: str) -> Action:
        return Action(lambda: time.sleep(0.03), lambda: calls.append(name))

    samples = take_turns({"a": action("a"), "b": action("b")}, 0.0, "cpu", min_rounds=4)
    assert [len(figures) for figures in samples.values()] == [4, 4]
    assert "".join(calls[-8:]) == "abbaabba"
    assert all(0.03 <= second < 0.3 for figures in samples.values() for second in figures)


def test_saved_bytes_are_those_of_lora() -> None:
    """LoRA keeps x for A's gradient and x A^T for B's, nothing else."""
    model = providers.adapted(
        OneLayer(48, 32, torch.float32, "cpu"), providers.PEFT_LORA, 4, targets="linear"
    )
    x = noise((20, 48), "cpu").requires_grad_()
    assert memory.saved_bytes(model, lambda: model(x * 1)) == 4 * 20 * (48 + 4)


def test_peak_bytes_counts_what_is_held_at_once() -> None:
    def step() -> None:
        for _ in range(3):
            first = torch.empty(1_000_000, dtype=torch.uint8)
            second = torch.empty(500_000, dtype=torch.uint8)
            del first, second

    assert memory.peak_bytes(step, "cpu") == 1_500_000


def test_the_committed_tables_are_those_of_the_committed_rows() -> None:
    rows = table.all_rows()
    assert table.PAGE.read_text() == table.page(rows), "run: python benchmarks/table.py"
    readme = table.README.read_text()
    if table.BEGIN in readme:
        assert table.with_summary(readme, rows) == readme, "run: python benchmarks/table.py"


def test_the_worst_setting_counts() -> None:
    rows = [
        _row(benchmark="train_step", dtype="bfloat16", provider=OURS, ratio_p50=0.9, shape="a"),
        _row(benchmark="train_step", dtype="bfloat16", provider=OURS, ratio_p50=1.1, shape="b"),
        _row(benchmark="train_step", dtype="float32", provider=OURS, ratio_p50=0.95, shape="b"),
        _row(benchmark="train_step", dtype="bfloat16", provider="other", ratio_p50=9.0, shape="b"),
        _row(benchmark="train_step", provider=OURS, ratio_p50=8.0, device="NVIDIA H200"),
    ]
    lines = [x for x in table.summary(rows).splitlines() if "SmolLM2" in x]
    assert "bf16 | peft LoRA | 1.10 (0.80 to 1.20) | 2 | 1.00: missed |" in lines[0]
    assert "float32 | peft LoRA | 0.95 (0.80 to 1.20) | 1 | 1.00: met |" in lines[1]
    text = f"before {table.BEGIN}\nold\n{table.END} after"
    assert (
        table.with_summary(text, rows)
        == f"before {table.BEGIN}\n{table.summary(rows)}{table.END} after"
    )


def test_the_runner_is_a_script() -> None:
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, root / "benchmarks" / "run.py", "nothing"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert result.returncode == 2
    assert "no question ['nothing']; there are train_step, memory" in result.stderr


def _row(**changes: object) -> Row:
    values: dict[str, object] = dict.fromkeys(COLUMNS, "x")
    for name in ("p20", "p50", "p80", "ratio_p50"):
        values[name] = 1.0
    values |= {"dropout": 0.0, "n": 3, "threads": 1, "shape": "s", "unit": "s", "device": "cpu"}
    values |= {"ratio_to": "peft LoRA", "ratio_p20": 0.8, "ratio_p80": 1.2}
    return Row(**{**values, **changes})  # type: ignore[arg-type]

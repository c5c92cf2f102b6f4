"""Adapters in PEFT's own layers, and the one kind that these cannot run."""

from __future__ import annotations

import io
from pathlib import Path

import peft
import pytest
import torch
from rich.console import Console

from doratune.cli.verify import print_forms
from doratune.data.questions import Questions
from doratune.record.export import ExportFile
from doratune.record.verification import FormsFile
from doratune.ship.export import export_forms
from doratune.ship.stock_peft import load_in_stock_peft, on_cpus, why_not
from doratune.ship.task import Task
from doratune.ship.verification.forms import verify_forms
from tests.ship.adapters import save_adapter
from tests.ship.export.runs import recipe_for, trained_run
from tests.ship.quantized import save_quantized_adapter, wide_base

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="only CPUs have this fault")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_base(tmp_path_factory.mktemp("wide") / "base")


@pytest.fixture(scope="module")
def over_8_bits(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_quantized_adapter(base, tmp_path_factory.mktemp("int8") / "adapter", "int8")


@on_cpu
def test_dora_over_8_bits_runs_once(base: Path, over_8_bits: Path) -> None:
    """To be deleted, and `why_not` with it, when PEFT can."""
    model = load_in_stock_peft(base, over_8_bits, "float32")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        model(ids)
        with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'dtype'"):
            model(ids)


@on_cpu
@pytest.mark.parametrize(
    ("quantize", "use_dora", "runs"),
    [("int8", True, False), ("int8", False, True), ("nf4", True, True)],
)
def test_what_runs(base: Path, tmp_path: Path, quantize: str, use_dora: bool, runs: bool) -> None:
    folder = save_quantized_adapter(base, tmp_path / "adapter", quantize, use_dora=use_dora)
    assert (why_not(folder) is None) == runs
    if runs:
        model = load_in_stock_peft(base, folder, "float32")
        with torch.no_grad():
            first, second = (model(torch.tensor([[1, 2, 3]])).logits for _ in range(2))
        assert torch.equal(first, second)


def test_an_adapter_of_a_dense_base_runs(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter")
    assert on_cpus(folder) is None
    assert why_not(folder) is None


def test_the_card_warns_of_repacking(base: Path, tmp_path: Path) -> None:
    """The fault itself: test_hazards.py."""
    run = trained_run(tmp_path / "run", save_quantized_adapter(base, tmp_path / "adapter", "nf4"))
    recipe = recipe_for(base, model={"quantize": "nf4"}, merge={"onto": "dequantized"})
    export_forms(run, recipe, ["peft"])
    [note] = ExportFile.read(run.exported).forms["peft"].notes
    assert "bitsandbytes repacks the weights in the first forward" in note
    assert note in (run.export / "peft" / "README.md").read_text()


@on_cpu
def test_what_cannot_run_is_told_and_not_asked(
    base: Path, over_8_bits: Path, tmp_path: Path
) -> None:
    run = trained_run(tmp_path / "run", over_8_bits)
    recipe = recipe_for(base, model={"quantize": "int8"}, merge={"onto": "dequantized"})
    questions = Questions([[1]], ["a"], [[2]], None, [])
    task = Task(questions, lambda model, title: pytest.fail(f"{title}: asked"))
    export_forms(run, recipe, ["peft"], task)
    record = ExportFile.read(run.exported).forms["peft"]
    assert record.tasks == []
    assert f"PEFT {peft.__version__} cannot run DoRA over 8 bits" in record.notes[0]
    assert record.notes[0] in (run.export / "peft" / "README.md").read_text()

    assert verify_forms(run, recipe)
    check = FormsFile.read(run.forms).checks["peft"]
    assert (check.not_run, check.logits, check.failures) == (record.notes[0], None, [])
    assert not verify_forms(run, recipe)
    shown = io.StringIO()
    print_forms(run, Console(file=shown, width=200))
    assert "export/peft was not compared: On CPUs, PEFT " in shown.getvalue()
    assert "same" not in shown.getvalue()

"""`doratune export` after a real, tiny run."""

from __future__ import annotations

import pytest

from doratune.cli import run as run_module
from doratune.cli.stages import STAGES
from doratune.record.export import ExportFile
from doratune.ship.export.in_llama import VARIABLE
from tests.cli.conftest import Place


@pytest.fixture
def trained(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv(VARIABLE, raising=False)
    for command in ("data", "train", "merge", "verify"):
        assert place(command, place.recipe).code == 0
    return place


def test_forms_accuracy_and_nothing_to_do(trained: Place) -> None:
    done = trained("export", trained.recipe, "--to", "lora, bundle,peft", "--accuracy")
    assert done.code == 0, done.err
    assert "export done" in done.err
    forms = ExportFile.read(trained.run / "export.json").forms
    assert list(forms) == ["peft", "lora", "bundle"]
    [task] = forms["lora"].tasks
    assert task.num_examples > 0
    again = trained("export", trained.run, "--to", "peft,lora,bundle", "--accuracy")
    assert "export is up to date; nothing to do" in again.err


def test_the_recipes_forms(trained: Place) -> None:
    trained.recipe.write_text(trained.recipe.read_text() + "export:\n  forms: [merged]\n")
    assert trained("export", trained.recipe).code == 0
    assert [path.name for path in (trained.run / "export").iterdir()] == ["merged"]


def test_run_exports_what_the_recipe_names(trained: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "STAGES", ["export", "report"])
    monkeypatch.setattr(run_module, "print_summary", lambda *_: None)
    without = trained("run", trained.recipe)
    assert without.code == 0, without.err
    assert "export left out: the recipe names no export.forms" in without.err
    assert "Nothing was exported" in (trained.run / "report.html").read_text()
    trained.recipe.write_text(trained.recipe.read_text() + "export:\n  forms: [bundle]\n")
    done = trained("run", trained.recipe)
    assert "export done report done" in done.err
    assert list(ExportFile.read(trained.run / "export.json").forms) == ["bundle"]
    assert "bundle/dora_scale.safetensors" in (trained.run / "report.html").read_text()
    assert "export is up to date; nothing to do" in trained("run", trained.recipe).err


def test_the_order_of_the_stages() -> None:
    assert list(STAGES)[-5:] == ["merge", "verify", "latency", "export", "report"]


def test_a_form_that_the_method_cannot_leave_is_found_before_training(place: Place) -> None:
    place.recipe.write_text(place.recipe.read_text() + "export:\n  forms: [merged, bundle]\n")
    place.edit("  r: 4", "  method: lora\n  r: 4")
    lora = place("check", place.recipe)
    assert lora.code == 2
    assert (
        "export.forms has bundle, which adapter.method 'lora' does not leave; export peft"
        in lora.err
    )
    place.edit("method: lora", "method: full")
    full = place("check", place.recipe)
    assert "has bundle, which adapter.method 'full' does not leave; export merged, gguf" in full.err


def test_what_can_be_wrong(place: Place) -> None:
    unknown = place("export", place.recipe, "--to", "peft,onnx")
    assert unknown.code == 2
    assert "--to names 'onnx'; expected one or more of peft, lora, merged, gguf" in unknown.err
    early = place("export", place.recipe)
    assert early.code == 8
    assert "adapter does not exist. Run `doratune train` first" in early.err
    place.recipe.write_text(place.recipe.read_text() + "export:\n  forms: [peft, peft]\n")
    twice = place("export", place.recipe)
    assert (twice.code, "peft is named twice in peft, peft" in twice.err) == (2, True)

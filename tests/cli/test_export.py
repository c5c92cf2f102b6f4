"""`doratune export` after a real, tiny run."""

from __future__ import annotations

import pytest

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

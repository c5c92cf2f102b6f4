from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from doratune.errors import DependencyError, VerificationError
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile
from doratune.ship import merge_adapter, verify_merged
from doratune.ship.export.gguf import write_gguf_form
from doratune.ship.export.in_llama import VARIABLE
from tests.ship.export.models import save_family
from tests.ship.export.runs import (
    card_of,
    recipe_for,
    sealed_adapter,
    subject_of,
    trained_run,
    write_figures,
)


@pytest.fixture
def merged(tmp_path: Path) -> RunFolder:
    """A run on a SmolLM-like base, merged and verified."""
    base = save_family("smollm", tmp_path / "base")
    run = trained_run(tmp_path / "merged_run", sealed_adapter(base, tmp_path / "adapter"))
    merge_adapter(run, recipe_for(base))
    verify_merged(run, recipe_for(base))
    return run


def write(run: RunFolder, tmp_path: Path, **sections: dict[str, object]) -> tuple[Any, Path]:
    folder = tmp_path / "form"
    folder.mkdir()
    return write_gguf_form(
        subject_of(run, recipe_for(tmp_path / "base", **sections)), folder
    ), folder


@pytest.mark.usefixtures("no_llama")
def test_files_modelfile_card_and_what_was_not_checked(merged: RunFolder, tmp_path: Path) -> None:
    written, folder = write(merged, tmp_path, export={"gguf_types": ["bf16", "q8_0"]})
    names = {file.name for file in folder.iterdir()}
    assert names == {"tiny-bf16.gguf", "tiny-q8_0.gguf", "Modelfile"}
    assert (folder / "Modelfile").read_text().startswith("FROM ./tiny-bf16.gguf\nTEMPLATE")
    (note,) = written.notes
    assert note.startswith("Not run in llama.cpp: llama-cpp-python is not installed. Install")
    assert VARIABLE in note
    subject = subject_of(merged, recipe_for(tmp_path / "base"))
    text = card_of(subject, "gguf", folder, written)
    assert "`tiny-q8_0.gguf`: 20 tensors read back, none further off than q8_0 rounds." in text
    assert "the same most likely token at 100.00%" in text
    assert note in text


def test_llama_runs_every_file(merged: RunFolder, tmp_path: Path, llama: str) -> None:
    written, _ = write(merged, tmp_path, export={"gguf_types": ["f32", "q8_0"]})
    assert [check.what for check in written.logits] == ["llama.cpp, f32", "llama.cpp, q8_0"]
    assert written.logits[0].mean_kl < 1e-6
    assert written.tokens[0].greedy_equal
    assert written.notes == ()
    assert not any("Not run in llama.cpp" in text for text in written.findings["README.md"])


@pytest.mark.usefixtures("no_llama")
@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"template": "alpaca"}, 'TEMPLATE """Below is an instruction that describes a task.'),
        ({"system": "Name the clause."}, 'SYSTEM """Name the clause."""'),
    ],
)
def test_the_modelfile_renders_as_training_did(
    merged: RunFolder, tmp_path: Path, section: dict[str, object], expected: str
) -> None:
    _, folder = write(merged, tmp_path, data=section)
    text = (folder / "Modelfile").read_text()
    assert expected in text
    assert text.endswith('PARAMETER stop "<|im_end|>"\n')


@pytest.mark.usefixtures("no_llama")
def test_plain_text_has_no_turns(merged: RunFolder, tmp_path: Path) -> None:
    write_figures(merged, recipe_for(tmp_path / "base"))
    DataFile.read(merged.data).model_copy(update={"format": "text"}).write(merged.data)
    _, folder = write(merged, tmp_path)
    assert 'TEMPLATE """{{ .Prompt }}"""' in (folder / "Modelfile").read_text()


def test_without_the_package_gguf(
    merged: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def fails(name: str, *rest: Any) -> Any:
        if name == "doratune.ship.export.gguf_file":
            raise ModuleNotFoundError("No module named 'gguf'", name="gguf")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(
        DependencyError,
        match=r"package 'gguf', which is not installed\. Run: pip install 'doratune\[",
    ):
        write(merged, tmp_path)


def test_a_file_that_llama_reads_otherwise_is_not_left(
    merged: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagrees(*_: Any) -> Sequence[Any]:
        raise VerificationError("not the merged model")

    monkeypatch.setattr("doratune.ship.export.gguf.interpreter", lambda: "python")
    monkeypatch.setattr("doratune.ship.export.gguf.check_in_llama", disagrees)
    with pytest.raises(VerificationError, match="not the merged model"):
        write(merged, tmp_path)

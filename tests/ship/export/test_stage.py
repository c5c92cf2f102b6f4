from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doratune.adapter.origin import read_origin
from doratune.base import fingerprint
from doratune.data.questions import Questions
from doratune.errors import AdapterError, ConfigError, StorageError, VerificationError
from doratune.record.export import ExportFile
from doratune.record.files import digest_file, digest_path
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import ORIGIN, RecordFile, VerifyFile
from doratune.ship import merge_adapter, verify_merged
from doratune.ship.export import export_forms, stage
from doratune.ship.task import Task
from tests.ship.adapters import edit_tensors, write_origin
from tests.ship.export.runs import recipe_for, seal, sealed_adapter, trained_run, write_figures
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("no_llama")


def test_the_recipes_default_is_the_adapter(base: Path, run: RunFolder) -> None:
    assert export_forms(run, recipe_for(base))
    assert [path.name for path in run.export.iterdir()] == ["peft"]
    assert not export_forms(run, recipe_for(base))


def test_the_record_names_every_file_and_what_it_is_of(base: Path, run: RunFolder) -> None:
    export_forms(run, recipe_for(base), ["peft", "lora", "bundle"])
    file = ExportFile.read(run.exported)
    assert list(file.forms) == ["peft", "lora", "bundle"]
    for form, record in file.forms.items():
        folder = run.export / form
        assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # readable alike
        assert {f.name: f.sha256 for f in record.files} == {
            path.name: digest_file(path) for path in folder.iterdir()
        }
        assert record.base_fingerprint == fingerprint(base)
        assert record.adapter_digest == digest_path(run.adapter)
        assert record.approximate == (form == "lora") == (record.approximation is not None)
    stages = RecordFile.read(run.record).stages
    assert list(stages) == ["export peft", "export lora", "export bundle"]


def test_forms_of_the_recipe_and_of_the_caller(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base, export={"forms": ["bundle", "peft"]})
    export_forms(run, recipe)
    assert set(ExportFile.read(run.exported).forms) == {"bundle", "peft"}
    export_forms(run, recipe, ["lora"])
    assert set(ExportFile.read(run.exported).forms) == {"bundle", "peft", "lora"}


def test_an_interruption_leaves_finished_forms_and_nothing_of_the_other(
    base: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(subject: object, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(stage._WRITERS, "lora", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_forms(run, recipe_for(base), ["peft", "lora"])
    assert [path.name for path in run.export.iterdir()] == ["peft"]
    assert list(ExportFile.read(run.exported).forms) == ["peft"]
    before = (run.export / "peft" / "README.md").stat().st_mtime_ns
    assert export_forms(run, recipe_for(base), ["peft", "lora"])
    assert (run.export / "peft" / "README.md").stat().st_mtime_ns == before
    assert list(ExportFile.read(run.exported).forms) == ["peft", "lora"]


HANG = """
import sys, time
from pathlib import Path
from doratune.record.run_folder import RunFolder
from doratune.ship.export import export_forms, stage
from tests.ship.export.runs import recipe_for

def hang(subject, folder):
    (folder / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)

stage._WRITERS["lora"] = hang
export_forms(RunFolder(Path(sys.argv[1])), recipe_for(Path(sys.argv[2])), ["peft", "lora"])
"""


@pytest.mark.slow
def test_what_a_killed_export_left_is_removed_by_the_next(base: Path, run: RunFolder) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANG, str(run.path), str(base)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any(line == "writing\n" for line in process.stdout)
    process.kill()
    process.wait()
    left = f".lora.{process.pid}.tmp"
    assert {path.name for path in run.export.iterdir()} == {"peft", left}
    assert export_forms(run, recipe_for(base), ["lora"])
    assert {path.name for path in run.export.iterdir()} == {"peft", "lora"}


def test_what_a_form_depends_on(base: Path, run: RunFolder) -> None:
    """Its settings, the adapter, the data, figures that its card tells; not other forms' settings."""
    export_forms(run, recipe_for(base), ["peft", "lora"])
    other = recipe_for(base, export={"lora_rank": 8})
    assert not export_forms(run, other, ["peft"])
    assert export_forms(run, other, ["lora"])
    write_figures(run, other)
    assert export_forms(run, other, ["peft"])
    assert "0.900" in (run.export / "peft" / "README.md").read_text()
    write_figures(run, other, accuracy=0.8)
    assert export_forms(run, other, ["peft"])
    assert "0.800" in (run.export / "peft" / "README.md").read_text()
    (run.export / "peft" / "README.md").write_text("changed by hand")
    assert export_forms(run, other, ["peft"])
    run.exported.unlink()
    assert export_forms(run, other, ["peft"])
    assert not export_forms(run, other, ["peft"])


def changed_since(before: dict[Path, int], folder: Path) -> set[str]:
    """Names of the files that were written since."""
    return {path.name for path, time in times_of(folder).items() if before.get(path) != time}


def times_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_other_figures_are_another_card_and_nothing_else(base: Path, run: RunFolder) -> None:
    recipe, forms = recipe_for(base), ("peft", "lora", "bundle", "merged", "gguf")
    merge_adapter(run, recipe)
    export_forms(run, recipe, forms)
    before, record = times_of(run.export), ExportFile.read(run.exported)
    cards = {form: (run.export / form / "README.md").read_text() for form in forms}
    verify_merged(run, recipe)
    write_figures(run, recipe, of_data=False)
    assert export_forms(run, recipe, forms)
    assert changed_since(before, run.export) == {"README.md"}
    again = ExportFile.read(run.exported)
    for form in forms:
        folder = run.export / form
        card = (folder / "README.md").read_text()
        assert "0.900" in card
        assert cards[form] != card
        assert all(sentence in card for sentence in again.forms[form].findings["README.md"])
        assert {f.name: f.sha256 for f in again.forms[form].files} == {
            path.name: digest_file(path) for path in folder.iterdir()
        }
        assert again.forms[form].logits == record.forms[form].logits
    assert "compared with base and adapter" in (run.export / "gguf" / "README.md").read_text()
    assert record.forms["merged"].notes
    assert not again.forms["merged"].notes
    assert again.forms["gguf"].notes == record.forms["gguf"].notes != []
    assert not export_forms(run, recipe, forms)


def test_a_card_that_was_interrupted_or_has_no_findings_is_made_with_its_form(
    base: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(base)
    export_forms(run, recipe, ["peft"])

    def interrupted(*_: object) -> None:
        (run.export / "peft" / "README.md").write_text("new")
        raise KeyboardInterrupt

    write_figures(run, recipe, of_data=False)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_cards", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_forms(run, recipe, ["peft"])
    before = times_of(run.export)
    assert export_forms(run, recipe, ["peft"])
    assert "0.900" in (run.export / "peft" / "README.md").read_text()
    assert "adapter_model.safetensors" in changed_since(before, run.export)
    file = ExportFile.read(run.exported)  # as versions before wrote it
    file.forms["peft"] = file.forms["peft"].model_copy(update={"findings": {}})
    file.write(run.exported)
    before = times_of(run.export)
    write_figures(run, recipe, accuracy=0.8, of_data=False)
    assert export_forms(run, recipe, ["peft"])
    assert "adapter_model.safetensors" in changed_since(before, run.export)
    assert "0.800" in (run.export / "peft" / "README.md").read_text()


def test_only_forms_that_are_asked_are_made_again_to_be_asked(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base)
    merge_adapter(run, recipe)
    forms = ("peft", "merged", "bundle", "gguf")
    export_forms(run, recipe, forms)
    task = Task(Questions([[1]] * 2, ["a"] * 2, [[2]] * 2, ["a"], []), lambda *_: [True, False])
    # The bundle is never asked, and GGUF files only where llama.cpp is at hand.
    done = {form: export_forms(run, recipe, [form], task) for form in forms}
    assert done == {"peft": True, "merged": True, "bundle": False, "gguf": False}
    assert not export_forms(run, recipe, forms, task)
    assert not export_forms(run, recipe, forms)  # the answers are kept
    write_figures(run, recipe, of_data=False)
    before = times_of(run.export)
    assert export_forms(run, recipe, ["peft"])
    assert changed_since(before, run.export) == {"README.md"}
    record = ExportFile.read(run.exported).forms["peft"]
    assert [task.num_right for task in record.tasks] == [1]
    assert "1 of 2" in (run.export / "peft" / "README.md").read_text()
    assert export_forms(run, recipe_for(base, export={"license": "mit"}), ["peft"])
    assert not ExportFile.read(run.exported).forms["peft"].tasks


def test_forms_of_the_merged_model(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base)
    with pytest.raises(
        StorageError,
        match=re.escape(f"{run.merged} does not exist, which the form 'merged' is made from. Run"),
    ):
        export_forms(run, recipe, ["merged"])
    merge_adapter(run, recipe)
    export_forms(run, recipe, ["merged"])
    card = (run.export / "merged" / "README.md").read_text()
    assert "`doratune verify` did not run" in " ".join(card.split())
    assert ExportFile.read(run.exported).forms["merged"].notes
    verify_merged(run, recipe)
    assert export_forms(run, recipe, ["merged"])
    assert not ExportFile.read(run.exported).forms["merged"].notes
    assert not merge_adapter(run, recipe)
    weights = "model.safetensors"
    assert (run.export / "merged" / weights).samefile(run.merged / weights)
    assert not (run.export / "merged" / "config.json").samefile(run.merged / "config.json")


@pytest.mark.parametrize("form", ["merged", "gguf"])
def test_a_model_that_failed_verification_goes_nowhere(
    base: Path, run: RunFolder, form: str
) -> None:
    recipe = recipe_for(base)
    merge_adapter(run, recipe)
    verify_merged(run, recipe)
    VerifyFile.read(run.verify).model_copy(update={"passed": False}).write(run.verify)
    with pytest.raises(VerificationError, match=f"the form '{form}' would carry the fault on"):
        export_forms(run, recipe, [form])  # type: ignore[list-item]


def test_lora_needs_no_lora(base: Path, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", sealed_adapter(base, tmp_path / "adapter", use_dora=False))
    for form in ("lora", "bundle"):
        with pytest.raises(ConfigError, match=f"The form '{form}' is made from a DoRA adapter"):
            export_forms(run, recipe_for(base), [form])  # type: ignore[list-item]
    assert export_forms(run, recipe_for(base))


def test_full_fine_tuning_has_no_adapter(base: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    tiny_model(seed=3).save_pretrained(trained)
    tiny_tokenizer().save_pretrained(trained)
    write_origin(base, trained, "full")
    run = trained_run(tmp_path / "run", trained)
    with pytest.raises(ConfigError, match="The form 'peft' needs an adapter, and this run trained"):
        export_forms(run, recipe_for(base), ["peft"])
    merge_adapter(run, recipe_for(base))
    assert export_forms(run, recipe_for(base))
    assert [path.name for path in run.export.iterdir()] == ["merged"]


def test_an_adapter_of_a_quantised_base_wants_to_know_what_onto(base: Path, run: RunFolder) -> None:
    origin = read_origin(run.adapter)
    assert origin is not None
    origin.model_copy(update={"quantize": "nf4"}).write(run.adapter / ORIGIN)
    assert export_forms(run, recipe_for(base))
    for form in ("lora", "bundle", "merged"):
        with pytest.raises(
            ConfigError, match=r"trained over a base in 4 bits \(nf4\), and merge\.onto"
        ):
            export_forms(run, recipe_for(base), [form])  # type: ignore[list-item]


def test_what_must_be_there_and_fit(base: Path, run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="An adapter works on its own base only"):
        export_forms(run, recipe_for(save_tiny(tmp_path / "other", seed=5)))
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"
    edit_tensors(run.adapter / "adapter_model.safetensors", **{key: None})
    seal(run.adapter)
    with pytest.raises(AdapterError, match="lora_magnitude_vector"):
        export_forms(run, recipe_for(base))
    shutil.rmtree(run.adapter)
    with pytest.raises(StorageError, match=r"adapter does not exist\. Run `doratune train` first"):
        export_forms(run, recipe_for(base))
    assert not run.export.exists()

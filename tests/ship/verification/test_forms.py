"""Exported folders, compared with the trained model as their users load them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from doratune.base import load_base
from doratune.errors import VerificationError
from doratune.record.run_folder import RunFolder
from doratune.record.verification import FormsFile
from doratune.ship import merge_adapter
from doratune.ship.export import export_forms
from doratune.ship.export.in_llama import VARIABLE, interpreter
from doratune.ship.verification import forms as verify_forms_module
from doratune.ship.verification.forms import exported_forms, verify_forms
from tests.ship.adapters import edit_tensors, save_adapter
from tests.ship.export.runs import recipe_for, seal, trained_run
from tests.ship.kinds import adapt
from tests.ship.quantized import save_quantized_adapter, wide_base
from tests.tiny import save_tiny

LAYER = "model.layers.1.mlp.up_proj"
SECTIONS = {"merge": {"dtype": "bfloat16"}, "export": {"lora_rank": 4}}
FORMS = ["peft", "bundle", "merged", "lora"]


@pytest.fixture(autouse=True)
def no_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    for user in ("export.gguf", "export.inputs", "verification.forms"):
        monkeypatch.setattr(f"doratune.ship.{user}.interpreter", lambda: None)


@pytest.fixture(scope="session")
def exported(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all forms but GGUF, merged in bf16; read only."""
    run = trained_run(tmp_path_factory.mktemp("forms") / "run", adapter)
    recipe = recipe_for(base, **SECTIONS)
    merge_adapter(run, recipe)
    export_forms(run, recipe, ["peft", "lora", "merged", "bundle"])
    return run.path


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(exported, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def leave(run: RunFolder, *forms: str) -> None:
    """Removes what else was exported."""
    for folder in run.export.iterdir():
        if folder.name not in forms:
            shutil.rmtree(folder)


def test_every_form_is_compared_once(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base, **SECTIONS)
    assert verify_forms(run, recipe)
    checks = FormsFile.read(run.forms).checks
    assert list(checks) == FORMS
    for name, check in checks.items():
        assert check.logits is not None
        assert (check.failures, check.approximate) == ([], name == "lora")
        assert len(check.outputs) == 22
        worst = max(check.outputs.values())
        if name == "lora":
            assert worst > 0.01
            assert check.logits.thresholds == {}
        else:
            assert worst < check.logits.thresholds["output_error"] / 2
    assert max(checks["bundle"].outputs.values()) < 1e-6
    assert max(checks["merged"].outputs.values()) > 1e-3  # bf16 is seen
    assert not verify_forms(run, recipe)
    shutil.rmtree(run.export / "lora")
    before = run.forms.read_text()
    assert not verify_forms(run, recipe)
    assert list(FormsFile.read(run.forms).checks) == FORMS[:3]
    assert before != run.forms.read_text()


def test_only_what_has_changed_is_compared_again(
    base: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(base, **SECTIONS)
    leave(run, "peft", "bundle")
    verify_forms(run, recipe)
    (run.export / "peft" / "README.md").write_text("another figure")
    assert not verify_forms(run, recipe)
    (run.export / "peft" / "note.txt").write_text("new")
    seen = []
    load = verify_forms_module._load
    monkeypatch.setattr(
        verify_forms_module, "_load", lambda s, found: seen.append(found.name) or load(s, found)
    )
    assert verify_forms(run, recipe)
    assert seen == ["peft"]


@pytest.mark.parametrize("form", ["peft", "bundle", "merged"])
def test_a_fault_in_a_folder_is_found_and_its_layer_named(
    base: Path, run: RunFolder, form: str
) -> None:
    recipe = recipe_for(base, **SECTIONS)
    leave(run, form, "lora")
    folder = run.export / form
    if form == "merged":
        file, name = folder / "model.safetensors", f"{LAYER}.weight"
    elif form == "peft":
        file = folder / "adapter_model.safetensors"
        name = f"base_model.model.{LAYER}.lora_magnitude_vector"
    else:
        file = folder / "dora_scale.safetensors"
        name = f"base_model.model.{LAYER}.mag_norm_scale"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors[name] = tensors[name] * 1.1
    file.unlink()  # the merged weights are a link to those of the run
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(VerificationError, match=rf"{form}: Layer {LAYER} departs.*export` again"):
        verify_forms(run, recipe)
    with pytest.raises(VerificationError, match="departs"):  # every time
        verify_forms(run, recipe)
    checks = FormsFile.read(run.forms).checks
    assert list(checks) == [form, "lora"]  # the other has been compared too
    assert [name for name, check in checks.items() if check.failures] == [form]
    apart = {k for k, v in checks[form].outputs.items() if v > 0.05}
    assert apart == {LAYER}


def test_a_folder_that_cannot_be_loaded_is_a_failure(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base, **SECTIONS)
    leave(run, "bundle")
    (run.export / "bundle" / "dora_scale.safetensors").unlink()
    with pytest.raises(VerificationError, match=r"bundle: .*dora_scale.safetensors is not there"):
        verify_forms(run, recipe)
    check = FormsFile.read(run.forms).checks["bundle"]
    assert check.logits is None
    assert len(check.failures) == 1


def test_nothing_exported_is_nothing_to_do(base: Path, adapter: Path, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", adapter)
    assert not verify_forms(run, recipe_for(base))
    assert not run.forms.exists()


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("base_fingerprint", "was made for the base 'other'"),
        ("adapter_sha256", "was made for the adapter file 'other'"),
        ("format", "was made for the format 'other'"),
        ("tensor", "lacks base_model.model.model.layers.1.mlp.up_proj.mag_norm_scale"),
    ],
)
def test_a_bundle_says_what_it_was_made_for(
    base: Path, run: RunFolder, key: str, match: str
) -> None:
    leave(run, "bundle")
    file = run.export / "bundle" / "dora_scale.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    if key == "tensor":
        del tensors[f"base_model.model.{LAYER}.mag_norm_scale"]
    else:
        metadata[key] = "other"
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(VerificationError, match=match):
        verify_forms(run, recipe_for(base, **SECTIONS))


def test_a_bundle_with_bias_and_saved_modules(tmp_path: Path) -> None:
    """A head that is tied in the base and trained whole is not the embedding any more."""
    base = save_tiny(tmp_path / "base", attention_bias=True)
    adapter = seal(save_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"]))
    edit_tensors(
        adapter / "adapter_model.safetensors",
        base_model__model__lm_head__weight=torch.randn(400, 32),
    )
    run, recipe = trained_run(tmp_path / "run", seal(adapter)), recipe_for(base)
    export_forms(run, recipe, ["bundle"])
    assert verify_forms(run, recipe)
    outputs = FormsFile.read(run.forms).checks["bundle"].outputs
    assert max(outputs.values()) < 1e-6


def test_an_adapted_embedding_is_compared(tmp_path: Path) -> None:
    """In a model whose head is tied to it and adapted too; a fault there is named."""
    base = save_tiny(tmp_path / "base")
    layers = ["lm_head", "embed_tokens"]
    adapter = adapt(load_base(base, "float32"), base, tmp_path / "adapter", target_modules=layers)
    run = trained_run(tmp_path / "run", adapter)
    recipe = recipe_for(base, export={"lora_rank": 32})  # whole rank
    export_forms(run, recipe, ["bundle", "lora"])
    assert verify_forms(run, recipe)
    for check in FormsFile.read(run.forms).checks.values():
        assert max(check.outputs.values()) < 1e-5
    file = run.export / "bundle" / "dora_scale.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["base_model.model.model.embed_tokens.mag_norm_scale"] *= 1.01
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(VerificationError, match=r"bundle: Layer model\.embed_tokens departs"):
        verify_forms(run, recipe)


def test_gguf_files_are_run_by_llama(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = interpreter()
    if python is None:
        pytest.skip(f"no llama-cpp-python here, and {VARIABLE} names no interpreter that has it")
    monkeypatch.setattr("doratune.ship.verification.forms.interpreter", lambda: python)
    run = trained_run(tmp_path / "run", adapter)
    recipe = recipe_for(base, export={"gguf_types": ["f32", "q8_0"]})
    merge_adapter(run, recipe)
    export_forms(run, recipe, ["gguf"])
    assert verify_forms(run, recipe)
    checks = FormsFile.read(run.forms).checks
    assert list(checks) == ["tiny-f32.gguf", "tiny-q8_0.gguf"]
    assert checks["tiny-f32.gguf"].logits.what == "llama.cpp, f32"
    shutil.copy(run.export / "gguf" / "tiny-q8_0.gguf", run.export / "gguf" / "tiny-f32.gguf")
    with pytest.raises(
        VerificationError, match=r"tiny-f32.gguf: tiny-f32.gguf in llama.cpp is not"
    ):
        verify_forms(run, recipe)
    assert json.loads(run.forms.read_text())["checks"]["tiny-f32.gguf"]["logits"] is None
    assert [found.form for found in exported_forms(run)] == ["gguf", "gguf"]


def test_forms_of_a_quantised_base(tmp_path: Path) -> None:
    """As they stand on it: those made for it are the trained model, others are told and not judged."""
    pytest.importorskip("bitsandbytes")
    base = wide_base(tmp_path / "base")
    adapter = seal(save_quantized_adapter(base, tmp_path / "adapter", "nf4"))
    run = trained_run(tmp_path / "run", adapter)
    for onto in ("dequantized", "requantize"):
        sections = {"model": {"quantize": "nf4"}, "merge": {"onto": onto, "dtype": "float32"}}
        recipe = recipe_for(base, **sections, export={"lora_rank": 64})
        merge_adapter(run, recipe)
        export_forms(run, recipe, ["peft", "bundle", "merged", "lora"])
        assert verify_forms(run, recipe)
        checks = FormsFile.read(run.forms).checks
        rough = {"lora"} if onto == "dequantized" else {"lora", "merged"}
        assert {name for name, check in checks.items() if check.approximate} == rough
        kl = {name: check.logits.mean_kl for name, check in checks.items() if check.logits}
        assert all(kl[name] < 1e-8 for name in checks if name != "merged")
        assert (kl["merged"] > 1e-4) == (onto == "requantize")

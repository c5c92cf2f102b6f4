from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from doratune.adapter import read_adapter
from doratune.base import load_base, load_tokenizer
from doratune.data import Renderer, read_examples
from doratune.data.questions import Questions
from doratune.errors import DependencyError, ModelError
from doratune.record.export import ExportFile
from doratune.record.run_folder import RunFolder
from doratune.ship import merge_adapter
from doratune.ship.export import export_forms, quantized_make
from doratune.ship.export.inputs import inputs_of
from doratune.ship.export.quantized_make import calibration_data, make_quantized
from doratune.ship.task import Task
from tests.adapter.models import tokens
from tests.ship.export.runs import recipe_for, sealed_adapter, subject_of, trained_run
from tests.tiny import save_tiny

pytestmark = pytest.mark.usefixtures("no_llama")


@pytest.fixture(scope="session")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of shapes that quantisers take."""
    return save_tiny(
        tmp_path_factory.mktemp("wide") / "base", hidden_size=64, intermediate_size=128
    )


@pytest.fixture
def wide_run(wide_base: Path, tmp_path: Path) -> RunFolder:
    """Merged, with training examples: the test examples in other words."""
    run = trained_run(tmp_path / "run", sealed_adapter(wide_base, tmp_path / "adapter"))
    lines = run.examples("test").read_text().replace("Is clause", "Please say: is clause")
    run.examples("train").write_text(lines)
    merge_adapter(run, recipe_for(wide_base))
    return run


def test_nf4_is_what_bitsandbytes_makes_of_the_merged_model(
    wide_base: Path, wide_run: RunFolder
) -> None:
    pytest.importorskip("bitsandbytes")
    recipe = recipe_for(
        wide_base,
        export={"forms": ["quantized"], "quantized_types": ["nf4"]},
        model={"dtype": "auto"},
    )
    questions = Questions([[1]] * 3, ["a"] * 3, [[2]] * 3, None, [])

    def ask(model: object, title: str) -> list[bool]:
        return [True, "nf4" not in title, "nf4" in title]

    assert export_forms(wide_run, recipe, task=Task(questions, ask))
    assert not export_forms(wide_run, recipe, task=Task(questions, ask))
    form = ExportFile.read(wide_run.exported).forms["quantized"]
    (found,), (logits,), (task,) = form.quantized, form.logits, form.tasks
    assert form.approximate
    assert (found.type, found.group_size, found.calibration) == ("nf4", 64, None)
    assert found.num_bytes < found.num_bytes_merged
    magnitudes = read_adapter(wide_run.adapter).layers
    assert {layer.layer for layer in found.layers} == set(magnitudes)
    assert (found.unquantized, found.clipped) == ([], None)
    assert 0.05 < found.weight_error < 0.12
    assert (logits.what, logits.against, logits.thresholds) == ("transformers, nf4", "merged", {})
    assert logits.mean_kl > 1e-4
    assert (task.what, task.num_lost, task.num_gained) == ("the model in nf4", 1, 1)

    folder = wide_run.export / "quantized" / "nf4"
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        expected = load_base(wide_run.merged, "float32", "nf4")
        assert torch.equal(model(tokens()).logits, expected(tokens()).logits)
    assert load_tokenizer(folder).chat_template == load_tokenizer(wide_base).chat_template
    card = " ".join((folder / "README.md").read_text().split())
    assert f"{found.weight_error:.2%} of the weights is lost" in card
    assert "Values are rounded to the nearest level; no data was used." in card
    assert "No weight was clipped." in card
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # readable alike


def test_calibration_is_training_data_in_the_models_template(
    wide_base: Path, wide_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_make, "BLOCK_TOKENS", 16)
    recipe = recipe_for(wide_base, export={"calibration_examples": 2})
    found = calibration_data(subject_of(wide_run, recipe))
    examples = sorted(read_examples(wide_run, "train"), key=lambda example: example.id)[:2]
    renderer = Renderer(load_tokenizer(wide_base))
    ids = [i for e in examples for i in renderer.example(e.messages).input_ids]
    assert [len(block) for block in found.blocks] == [16] * (len(ids) // 16)
    assert [i for block in found.blocks for i in block] == ids[: len(ids) // 16 * 16]
    assert (found.data.num_examples, found.data.num_tokens) == (2, len(ids) // 16 * 16)
    other = calibration_data(subject_of(wide_run, recipe_for(wide_base)))
    assert other.data.digest != found.data.digest


def test_what_a_quantised_form_depends_on(wide_base: Path, wide_run: RunFolder) -> None:
    def inputs(**export: object) -> dict[str, str]:
        return inputs_of(subject_of(wide_run, recipe_for(wide_base, export=export)), "quantized")

    assert inputs() == inputs(lora_rank=3) == inputs(gguf_types=["f16"])
    for change in (
        {"calibration_steps": 3},
        {"calibration_examples": 3},
        {"quantized_types": ["nf4"]},
    ):
        assert inputs(**change) != inputs()


@pytest.mark.parametrize(("kind", "package"), [("int4", "auto-round"), ("nf4", "bitsandbytes")])
def test_a_missing_package_is_told_before_anything_is_done(
    wide_base: Path, wide_run: RunFolder, kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(quantized_make._NEEDS, kind, (f"{package}-not",))
    recipe = recipe_for(wide_base, export={"quantized_types": [kind]})
    message = rf"A model in {kind} is made with the package {package}-not, .*'doratune\[quant\]'"
    with pytest.raises(DependencyError, match=message):
        export_forms(wide_run, recipe, ["quantized"])
    assert not list(wide_run.export.glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "error"), [("int4", 0.09), ("int8", 0.006)])
def test_auto_round_makes_what_transformers_loads_without_it(
    wide_base: Path, wide_run: RunFolder, kind: str, error: float
) -> None:
    pytest.importorskip("compressed_tensors")
    export = {"quantized_types": [kind], "calibration_steps": 3}
    recipe = recipe_for(wide_base, export=export)
    assert export_forms(wide_run, recipe, ["quantized"])
    (found,) = ExportFile.read(wide_run.exported).forms["quantized"].quantized
    assert found.weight_error == pytest.approx(error, rel=0.3)
    assert {layer.layer for layer in found.layers} == set(read_adapter(wide_run.adapter).layers)
    assert all(layer.norm_error < layer.norm_limit for layer in found.layers)
    assert found.group_size == (64 if kind == "int4" else None)
    assert (found.calibration is None) == (kind == "int8")
    config = json.loads((wide_run.export / "quantized" / kind / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"


@pytest.mark.slow
def test_a_quantiser_that_fails_leaves_nothing(wide_base: Path, wide_run: RunFolder) -> None:
    (wide_run.merged / "model.safetensors").write_bytes(b"damaged")
    target = wide_run.path / "int8"
    target.mkdir()
    subject = subject_of(wide_run, recipe_for(wide_base))
    with pytest.raises(
        ModelError, match=r"auto-round could not quantise .* to int8: it ended with"
    ):
        make_quantized(subject, target, "int8")
    assert not list(target.parent.glob(".auto-round-*"))

"""Forms of an adapter of a quantised base, and which weights they stand on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from doratune.adapter.origin import read_origin
from doratune.adapter.tuned import load_tuned
from doratune.errors import ConfigError
from doratune.recipe.schema import Recipe
from doratune.record.export import ExportFile
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Onto
from doratune.ship import merge_adapter, verify_merged
from doratune.ship.export import export_forms
from doratune.ship.merging.onto import plan_onto
from tests.adapter.models import tokens
from tests.ship.export.runs import recipe_for, seal, trained_run
from tests.ship.quantized import save_quantized_adapter, wide_base

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.usefixtures("no_llama")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_base(tmp_path_factory.mktemp("forms") / "base")


@pytest.fixture
def run(base: Path, tmp_path: Path) -> RunFolder:
    adapter = seal(save_quantized_adapter(base, tmp_path / "adapter", "nf4"))
    return trained_run(tmp_path / "run", adapter)


def recipe(base: Path, onto: Onto) -> Recipe:
    return recipe_for(
        base,
        model={"quantize": "nf4", "dtype": "float32"},
        merge={"onto": onto},
        export={"lora_rank": 64},
    )


def card(run: RunFolder, form: str) -> str:
    return " ".join((run.export / form / "README.md").read_text().split())


def test_forms_of_the_dequantised_base(base: Path, run: RunFolder) -> None:
    settings = recipe(base, "dequantized")
    merge_adapter(run, settings)
    verify_merged(run, settings)
    assert export_forms(run, settings, ["lora", "merged", "bundle", "gguf"])
    forms = ExportFile.read(run.exported).forms
    # Of full rank over the quantised base, plain LoRA is the trained model.
    assert forms["lora"].logits[0].mean_kl < 1e-8
    assert [name for name, form in forms.items() if form.approximate] == ["lora"]
    said = "Trained over the base in 4 bits (nf4), and made with the weights that this stands for."
    assert all(said in card(run, form) for form in forms)
    with safe_open(run.export / "bundle" / "dora_scale.safetensors", "pt") as file:
        assert file.metadata()["base_quantize"] == "nf4"
    for form in ("lora", "bundle"):
        origin = read_origin(run.export / form)
        assert origin is not None
        assert origin.quantize == "nf4"
    with torch.no_grad():
        found = load_tuned(base, run.export / "lora", "float32")(tokens()).logits
        expected = load_tuned(base, run.adapter, "float32")(tokens()).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_forms_of_the_bases_own_weights(base: Path, run: RunFolder) -> None:
    settings = recipe(base, "original")
    assert export_forms(run, settings, ["lora", "bundle"])
    forms = ExportFile.read(run.exported).forms
    assert all(form.approximate for form in forms.values())
    assert forms["lora"].logits[0].mean_kl > 1e-4  # it says how far that is from the trained model
    assert all("made with the base's own weights: **another model**" in card(run, f) for f in forms)
    with safe_open(run.export / "bundle" / "dora_scale.safetensors", "pt") as file:
        assert "base_quantize" not in file.metadata()
        layer = "model.layers.0.mlp.up_proj"
        scale = file.get_tensor(f"base_model.model.{layer}.mag_norm_scale")
    plan = plan_onto(base, run.adapter, "original")
    delta = plan.deltas[f"{layer}.weight"]
    assert delta.magnitude is not None
    V = plan.weight(f"{layer}.weight") + delta.scaling * delta.B @ delta.A
    torch.testing.assert_close(scale, delta.magnitude / V.norm(dim=1))
    origin = read_origin(run.export / "lora")
    assert origin is not None
    assert origin.quantize is None


def test_what_was_merged_counts_and_not_what_the_recipe_says(base: Path, run: RunFolder) -> None:
    merge_adapter(run, recipe(base, "requantize"))
    settings = recipe(base, "original")
    assert export_forms(run, settings, ["merged"])
    assert ExportFile.read(run.exported).forms["merged"].approximate
    assert "and quantised again in the same way: **another model**" in card(run, "merged")
    assert export_forms(run, settings, ["bundle"])
    assert not ExportFile.read(run.exported).forms["bundle"].approximate
    assert "and made with the weights that this stands for" in card(run, "bundle")
    for form in ("gguf", "quantized"):
        with pytest.raises(
            ConfigError, match=f"The form '{form}' is made from weights in 16 or 32"
        ):
            export_forms(run, settings, [form])  # type: ignore[list-item]

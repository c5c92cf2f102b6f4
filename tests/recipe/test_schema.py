from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from doratune.recipe.schema import DataSection, Recipe, Section, TrainSection


@pytest.mark.parametrize("name", ["a", "a.b-c_d", "7x"])
def test_names_of_run_folders(name: str) -> None:
    recipe = Recipe.model_validate(
        {"name": name, "model": {"source": "base"}, "data": {"source": "a.jsonl"}}
    )
    assert recipe.name == name


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_names_that_would_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        Recipe.model_validate({"name": name, "model": {"source": "b"}, "data": {"source": "a"}})


def test_the_prompt_must_name_the_text() -> None:
    with pytest.raises(ValidationError, match=r"prompt is 'Which\?'; it must contain \{text\}"):
        DataSection(source="a.jsonl", prompt="Which?")


def test_something_must_be_left_to_train_on() -> None:
    match = r"validation_share 0\.5 and test_share 0\.5 leave nothing to train on"
    with pytest.raises(ValidationError, match=match):
        DataSection(source="a.jsonl", validation_share=0.5, test_share=0.5)
    held_out = DataSection(
        source="a.jsonl", validation_share=0.5, test_share=0.5, test_source="b.jsonl"
    )
    assert held_out.test_source == "b.jsonl"


@pytest.mark.parametrize(
    "values",
    [{"learning_rate": -1.0}, {"epochs": 0}, {"warmup_share": 1.0}, {"batch_size": 0}, {"lr": 1}],
)
def test_training_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        TrainSection.model_validate(values)


def test_a_recipe_cannot_be_changed() -> None:
    section = TrainSection()
    with pytest.raises(ValidationError, match="frozen"):
        section.epochs = 1.0  # type: ignore[misc]


def test_every_section_is_strict_and_knows_its_keys() -> None:
    sections: list[type[BaseModel]] = Section.__subclasses__()
    assert len(sections) >= 8
    for section in sections:
        assert section.model_config["extra"] == "forbid"
        assert section.model_config["strict"] is True

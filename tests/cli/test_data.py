"""`doratune data` is a stage and a group of commands at once."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Place


def test_a_recipe_alone_does_the_stage(place: Place) -> None:
    first = place("data", place.recipe)
    assert first.code == 0, first.err
    assert "data done" in first.err
    for same in (("data", place.run), ("data", "prepare", place.recipe)):
        assert "data is up to date" in place(*same).err


def test_options_may_come_first(place: Place) -> None:
    result = place("data", "--runs", "elsewhere", place.recipe)
    assert result.code == 0, result.err
    assert (place.path / "elsewhere" / "tiny" / "data.json").exists()


@pytest.mark.parametrize("arguments", [("data", "--help"), ("data",)])
def test_help_names_the_stage_and_the_commands(place: Place, arguments: tuple[str, ...]) -> None:
    shown = place(*arguments)
    said = shown.out + shown.err
    assert "doratune data [OPTIONS] RECIPE | show RUN --index N" in said
    assert "Check the examples and split them" in said
    assert "Print one example as the model sees it" in said


def test_help_of_the_stage_and_of_show(place: Place) -> None:
    assert "A recipe, or the folder of an earlier run." in place("data", "prepare", "--help").out
    assert "--index" in place("data", "show", "--help").out


def test_no_such_recipe(place: Place) -> None:
    result = place("data", "shwo")
    assert result.code == 2
    assert "There is no recipe 'shwo'" in result.err


def test_show_prints_the_exact_string_and_what_is_learnt(place: Place) -> None:
    place("data", place.recipe)
    lines = (place.run / "data" / "test.jsonl").read_text().splitlines()
    example = json.loads(lines[1])
    shown = place("data", "show", place.run, "--index", 1, "--split", "test")
    assert shown.code == 0, shown.err
    asked = " ".join(example["messages"][0]["content"].split())
    assert f"<|im_start|>user {asked}<|im_end|> <|im_start|>assistant" in shown.out
    assert f"{example['label']}<|im_end|>" in shown.out
    assert example["place"] in shown.out
    assert shown.out.index("masked") < shown.out.index(asked) < shown.out.index("learnt")


def test_show_counts_from_zero_in_the_train_split(place: Place) -> None:
    place("data", place.recipe)
    lines = (place.run / "data" / "train.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["place"] in place("data", "show", place.recipe, "--index", 0).out
    beyond = place("data", "show", place.recipe, "--index", len(lines))
    assert beyond.code == 2
    assert f"--index is {len(lines)}, and the train split has {len(lines)} examples" in beyond.err


def test_show_before_the_stage(place: Place) -> None:
    result = place("data", "show", place.recipe, "--index", 0)
    assert result.code == 8
    assert "train.jsonl does not exist. Run `doratune data` first." in result.err


def test_show_of_a_file_that_was_changed(place: Place) -> None:
    place("data", place.recipe)
    (place.run / "data" / "train.jsonl").write_text('{"id": "x"}\n')
    result = place("data", "show", place.recipe, "--index", 0)
    assert result.code == 8
    assert (
        "train.jsonl:1 is not an example: Field required. Run `doratune data` again" in result.err
    )

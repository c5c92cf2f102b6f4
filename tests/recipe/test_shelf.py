from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from doratune.errors import ConfigError
from doratune.recipe import copy_recipe, load_recipe, shipped_recipe, shipped_recipes

NAMES = ["alpaca", "chat", "clauses", "commonsense", "quickstart"]


def test_each_has_a_description() -> None:
    found = shipped_recipes()
    assert list(found) == NAMES
    for description in found.values():
        assert 20 < len(description) < 100
        assert "\n" not in description


@pytest.mark.parametrize("name", NAMES)
def test_each_is_valid_and_named_after_its_file(name: str) -> None:
    assert shipped_recipe(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_keeps_the_comments_and_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    copy_recipe(name, tmp_path / "my.yaml")
    assert load_recipe(tmp_path / "my.yaml") == shipped_recipe(name)
    text = (tmp_path / "my.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# {shipped_recipes()[name]}\n")
    # The exact commands stand at the top, and no path of anybody's machine anywhere.
    assert re.search(rf"^#   doratune init {name}\b", text, re.MULTILINE)
    assert re.search(rf"^#   doratune run {name}\.yaml", text, re.MULTILINE)
    values = yaml.safe_load(text)
    assert not values["data"]["source"].startswith(("/", "~"))


def test_the_quickstart_needs_nothing_but_doratune() -> None:
    recipe = shipped_recipe("quickstart")
    assert recipe.data.source == "builtin:clauses"
    assert recipe.model.source.startswith("pypi:")
    assert recipe.adapter.method == "dora"


def test_commonsense_is_what_the_paper_did() -> None:
    """DoRA, Table 8, for Llama-3-8B at rank 32."""
    recipe = shipped_recipe("commonsense")
    adapter = recipe.adapter
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (32, 64, 0.05)
    assert adapter.target_modules == ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
    assert (recipe.train.learning_rate, recipe.train.epochs) == (1e-4, 3)
    assert recipe.train.batch_size * recipe.train.gradient_accumulation_steps == 16
    assert recipe.data.template == "alpaca"


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no shipped recipe 'clause'\. There are: alpaca, chat"):
        copy_recipe("clause", tmp_path / "my.yaml")
    assert not (tmp_path / "my.yaml").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "my.yaml"
    target.write_text("mine")
    with pytest.raises(ConfigError, match=r"my\.yaml exists and is left as it is"):
        copy_recipe("chat", target)
    assert target.read_text() == "mine"

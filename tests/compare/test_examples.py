from __future__ import annotations

from pathlib import Path

import pytest

from doratune.compare.arms import learning_rates
from doratune.recipe import load_recipe

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("compare_*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_recipes_that_compare_lora_and_dora(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.compare.arms == ["lora", "dora"]
    assert recipe.compare.seeds >= 3
    assert len(learning_rates(recipe, "dora")) >= 3
    assert recipe.data.validation_share > 0


def test_there_are_two() -> None:
    assert [path.stem for path in EXAMPLES] == ["compare_arc_easy", "compare_cuad"]

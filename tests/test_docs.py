"""Docs that can be wrong are checked."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest

from doratune import errors
from doratune.recipe import load_recipe, shipped_recipe, shipped_recipes, write_recipe
from doratune.record.files import digest_json

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("src/**/README.md")])


def test_the_recipe_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "recipe.md").read_text()
    assert module.reference() == written, "run: python docs/make_reference.py"
    assert "|  |" not in written, "a key without a meaning"


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_described(name: str) -> None:
    assert shipped_recipe(name).name == name
    assert shipped_recipes()[name]


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_resolved_recipe_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    """A stage run from the run folder must find its inputs unchanged."""
    recipe = shipped_recipe(name)
    write_recipe(tmp_path / "recipe.yaml", recipe)
    again = load_recipe(tmp_path / "recipe.yaml")
    assert digest_json(again.model_dump(mode="json")) == digest_json(recipe.model_dump(mode="json"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page} links to {target}"


def test_tests_named_in_the_semantics_exist() -> None:
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"\b(test_[a-z_]+)(?=[`\[])", (ROOT / "docs/semantics.md").read_text()):
        assert f"def {name}(" in code, name


def test_exit_codes_are_the_documented_ones() -> None:
    table = (ROOT / "docs" / "run-folder.md").read_text()
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.DoratuneError)
    }
    assert codes == {1, 2, 3, 4, 5, 6, 7, 8, 130}
    for code in codes:
        assert f"| {code} |" in table


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ("fast_layers", "fast DoRA in 14 layers"),
        ("data_gates", "text 1 says nearly the same as text 0"),
    ],
)
def test_example(example: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / f"{example}.py"))
    assert expected in capsys.readouterr().out

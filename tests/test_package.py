"""The public face: names, versions, what an import costs, sizes."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import doratune

ROOT = Path(__file__).resolve().parents[1]


def test_public_names() -> None:
    assert doratune.__all__ == [
        "FastDoraSummary",
        "ModelComparison",
        "__version__",
        "assert_same_model",
        "compare_models",
        "disable_fast_dora",
        "enable_fast_dora",
        "load_adapter",
    ]
    assert all(getattr(doratune, name) is not None for name in doratune.__all__)


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == doratune.__version__


def imported_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*(m for m in sys.modules if '.' not in m))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_import_is_light() -> None:
    heavy = {"torch", "peft", "transformers", "triton", "pydantic", "numpy"}
    assert not imported_after("import doratune") & heavy


def test_the_command_line_starts_without_torch() -> None:
    assert not imported_after("import doratune.cli.main") & {"torch", "peft", "transformers", "trl"}


def test_the_fast_layers_need_only_the_core_packages() -> None:
    """Core is torch, peft and safetensors, with what these bring along."""
    others = ["trl", "datasets", "rich", "typer", "pydantic", "sklearn", "scipy"]
    blocked = f"import sys; sys.modules.update(dict.fromkeys({others}))"
    assert "torch" in imported_after(
        f"{blocked}; from doratune import enable_fast_dora, load_adapter, assert_same_model"
    )


def test_what_is_imported_is_declared() -> None:
    """A package that happens to be installed here would be missing for a new user."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in lines}  # type: ignore[index]
    # Parts of PEFT, transformers, pydantic and jinja2, at whatever version these want.
    declared |= {"huggingface-hub", "tokenizers", "pydantic-core", "markupsafe"}
    homes = importlib.metadata.packages_distributions()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                found = {home.lower().replace("_", "-") for home in homes.get(name, [name])}
                assert found & declared, (
                    f"{path} imports {name}, which pyproject.toml does not name"
                )


def test_files_are_short() -> None:
    for folder in ("src", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text().splitlines())
            assert lines <= 500, f"{path} has {lines} lines; split it where a natural seam is"


def test_no_todo_without_an_anchor() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text()), path

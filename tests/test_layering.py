"""Imports only point down, and stages do not import each other."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "doratune"
FLOORS = [
    {"errors"},
    {"endpoint", "eval_mode", "progress", "ops", "record"},
    {"recipe"},
    {"base"},
    {"adapter", "data", "report"},
    {"train", "evaluate", "ship"},
    {"compare"},
    {"cli"},
]
FLOOR = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


def imported(path: Path) -> set[str]:
    """First names below ``doratune`` that a file imports, the doors of cli/stages.py included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("doratune."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("doratune.")}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for name in imported(path) - {own}:
        assert FLOOR[name] < FLOOR[own], f"{own} may not import {name}"


def test_every_folder_has_a_floor() -> None:
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders <= FLOOR.keys()


def test_ops_know_only_torch() -> None:
    for path in (ROOT / "ops").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                known = sys.stdlib_module_names | {"torch", "triton"}
                assert module.split(".")[0] in known or module.startswith("doratune.ops"), (
                    f"{path} imports {module}"
                )


def test_the_report_knows_records_only() -> None:
    for path in (ROOT / "report").rglob("*.py"):
        assert imported(path) <= {"report", "record", "recipe", "errors"}, path

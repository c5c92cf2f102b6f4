"""`doratune benchmarks`, alone and as a part of `doratune run`."""

from __future__ import annotations

import pytest

from doratune.cli import run as run_module
from doratune.record.benchmarks import BenchmarksFile
from tests.cli.conftest import Place
from tests.evaluate.benchmarks.exams import write_mmlu


def test_training_comes_first(place: Place) -> None:
    result = place("benchmarks", place.recipe)
    assert result.code == 2
    assert "has no adapter yet, which `benchmarks` starts from. Run `doratune train`" in result.err


def test_a_recipe_that_names_none_is_told_so(place: Place) -> None:
    assert place("train", place.recipe).code == 2  # data comes first
    assert place("data", "prepare", place.recipe).code == 0
    assert place("train", place.recipe).code == 0
    result = place("benchmarks", place.recipe)
    assert result.code == 2
    assert "names no eval.benchmarks.tasks and no eval.benchmarks.texts" in result.err

    folder = write_mmlu(place.path / "exam")
    place.edit("eval:\n", f"eval:\n  benchmarks:\n    tasks: [mmlu]\n    data: {folder}\n")
    result = place("benchmarks", place.recipe)
    assert result.code == 0, result.err
    assert "mmlu: 13 questions in 3 subjects, 5-shot" in result.err
    file = BenchmarksFile.read(place.run / "benchmarks.json")
    assert file.benchmarks[0].num_questions == 13
    again = place("benchmarks", place.recipe)
    assert "benchmarks is up to date; nothing to do" in again.err


def test_run_leaves_them_out_where_none_are_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "STAGES", ["benchmarks"])
    monkeypatch.setattr(run_module, "print_summary", lambda *_: None)
    result = place("run", place.recipe)
    assert result.code == 0
    said = "benchmarks left out: the recipe names no eval.benchmarks.tasks or texts"
    assert said in result.err

from __future__ import annotations

import pytest

from doratune.compare import stage
from doratune.record.comparison import CompareFile
from tests.cli.conftest import Place
from tests.compare.comparisons import InlineEngine


@pytest.fixture
def engine(place: Place, monkeypatch: pytest.MonkeyPatch) -> InlineEngine:
    """Two arms and one seed, at a rate that needs no sweep."""
    text = place.recipe.read_text().replace("max_steps: 6", "max_steps: 2")
    place.recipe.write_text(f"{text}compare:\n  seeds: 1\n  learning_rates: [5e-3]\n")
    inline = InlineEngine()
    monkeypatch.setattr(stage, "open_engine", lambda *_: inline)
    return inline


def test_what_a_comparison_says(place: Place, engine: InlineEngine) -> None:
    first = place("compare", place.recipe)
    assert first.code == 0, first.err
    assert "2 arms (LoRA, DoRA), 2 trainings: 2 final (1 seed, 2 steps each)" in first.err
    assert "Final base: " in first.err
    assert "Final dora/lr-5e-03/seed-0: validation loss" in first.err
    assert "compare done" in first.err
    file = CompareFile.read(place.run / "compare.json")
    for arm in file.arms:
        assert f"{arm.value.value:.1%}".replace("%", " %") in first.out
        assert f"{arm.value.low:.1%} to {arm.value.high:.1%}".replace("%", "") in first.out
    assert " ".join(file.verdict.split()) in first.out
    assert "One seed only: LoRA, DoRA" in first.out
    assert (place.run / "compare.html").exists()
    again = place("compare", place.run)
    assert "compare is up to date; nothing to do" in again.err
    assert " ".join(file.verdict.split()) in again.out, "told again"
    assert len(engine.done) == 3


def test_failed_jobs_end_with_an_error_after_the_figures(
    place: Place, engine: InlineEngine
) -> None:
    engine.before = lambda name: -9 if name.startswith("dora") else None
    result = place("compare", place.recipe)
    assert result.code == 1
    assert "Failed: dora/lr-5e-03/seed-0: The process was ended by SIGKILL" in result.out
    assert "- Without a finished run: DoRA: The process was ended by SIGKILL" in result.out
    assert "Error: 1 job failed: dora/lr-5e-03/seed-0" in result.err
    assert "the same command tries the failed ones again" in result.err.lower()


def test_interrupted(place: Place, engine: InlineEngine) -> None:
    def interrupt(name: str) -> None:
        if name.startswith("dora"):
            raise KeyboardInterrupt

    engine.before = interrupt
    result = place("compare", place.recipe)
    assert result.code == 130
    assert "the same command goes on where this one stopped" in result.err
    engine.before = lambda name: None
    engine.done.clear()
    assert place("compare", place.recipe).code == 0
    assert engine.done == ["dora/lr-5e-03/seed-0"]


def test_another_engine_than_there_is(place: Place) -> None:
    result = place("compare", place.recipe, "--engine", "slurm")
    assert result.code == 2
    assert "slurm" in result.err


def test_a_reference_that_is_no_arm(place: Place) -> None:
    place.recipe.write_text(place.recipe.read_text() + "compare:\n  arms: [dora]\n")
    result = place("compare", place.recipe)
    assert result.code == 2
    assert "reference 'lora' is not among the arms (dora)" in result.err


def test_a_reference_without_a_finished_run(place: Place, engine: InlineEngine) -> None:
    engine.before = lambda name: -9 if name.startswith("lora") else None
    result = place("compare", place.recipe)
    assert result.code == 1
    assert (
        "On tiny nothing can be compared: LoRA, the reference, has no finished run." in result.out
    )
    assert (place.run / "compare.html").exists()

from __future__ import annotations

from doratune.recipe.load import parse_recipe
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import RecordFile
from doratune.report import render, render_comparison, write_comparison, write_report
from tests.report import sample_comparison, sample_run

RECIPE = parse_recipe(sample_run.RECIPE, "recipe.yaml")


def test_report_is_written_once_and_again_when_a_record_changes(run: RunFolder) -> None:
    assert write_report(run, RECIPE)
    page = run.report.read_text()
    assert page == render(run)
    assert "report" in RecordFile.read(run.record).stages
    assert not write_report(run, RECIPE)

    sample_run.verify_file(2, num_prompts=17).write(run.verify)
    assert write_report(run, RECIPE)
    assert "of 17 prompts" in run.report.read_text()


def test_report_that_was_edited_is_written_again(run: RunFolder) -> None:
    write_report(run, RECIPE)
    page = run.report.read_text()
    run.report.write_text("better!")
    assert write_report(run, RECIPE)
    assert run.report.read_text() == page


def test_report_needs_only_a_record(run: RunFolder) -> None:
    for path in (run.data, run.train, run.steps, run.verify, run.merge, run.eval_file("test")):
        path.unlink()
    assert write_report(run, RECIPE)
    assert "was not measured" in run.report.read_text()


def test_a_comparison_is_written_beside_the_report(run: RunFolder) -> None:
    sample_comparison.compare_file(2).write(run.compare)
    write_report(run, RECIPE)
    page = run.report.read_text()
    assert write_comparison(run, RECIPE)
    assert run.compare_report.name == "compare.html"
    assert run.compare_report.read_text() == render_comparison(run)
    assert not write_comparison(run, RECIPE)
    # Neither page depends on when the other was written.
    assert not write_report(run, RECIPE)
    assert run.report.read_text() == page
    sample_comparison.compare_file(2, engine="ray").write(run.compare)
    assert write_comparison(run, RECIPE)
    assert "with the engine ray" in run.compare_report.read_text()

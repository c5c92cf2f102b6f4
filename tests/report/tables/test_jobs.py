from __future__ import annotations

from doratune.report.tables.jobs import job_rows, sweep_points
from tests.report.sample_comparison import compare_file


def test_every_job_is_listed_failed_ones_too() -> None:
    rows = job_rows(compare_file())
    assert len(rows) == 18
    (lost,) = [row for row in rows if row.status == "failed"]
    assert (lost.name, lost.stage) == ("dora/sweep-0/lr-6e-04", "sweep, rung 0")
    assert lost.error == "The loss is not finite after step 31."
    assert (lost.validation_loss, lost.test) == ("—", "—")
    (one,) = [row for row in rows if row.name == "dora/lr-2e-04/seed-1"]
    assert (one.stage, one.test, one.validation_loss) == ("final", "91.4\xa0%", "0.090")


def test_sweeps_have_numbers_for_learning_rates() -> None:
    points = sweep_points(compare_file())
    assert list(points) == ["LoRA", "DoRA", "Full fine-tuning"]
    assert list(points["LoRA"]) == [6.7e-5, 2e-4, 6e-4]
    assert sweep_points(compare_file(sweep={"lora": {}})) == {}


def test_a_diverged_job_and_the_answers_of_the_base_are_named() -> None:
    file = compare_file()
    base = file.jobs[0].model_copy(
        update={"name": "base", "arm": "base", "stage": "final", "learning_rate": None}
    )
    lost = file.jobs[0].model_copy(update={"status": "failed", "diverged": True})
    rows = job_rows(file.model_copy(update={"jobs": [base, lost]}))
    assert [(row.stage, row.status) for row in rows] == [
        ("answers only", "done"),
        ("sweep, rung 0", "diverged"),
    ]

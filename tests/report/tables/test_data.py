from __future__ import annotations

from doratune.recipe.load import parse_recipe, write_recipe
from doratune.record.files import write_jsonl
from doratune.record.review import ReviewFile
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import GateReport
from doratune.report.records import read_records
from doratune.report.tables.data import found_rows, gate_rows, review_line
from tests.report import sample_run
from tests.report.sample_run import gates, review_item


def test_gate_rows_say_what_was_done_and_found() -> None:
    rows = gate_rows(gates())
    assert [row.name for row in rows] == ["encoding", "personal data", "near duplicates"]
    assert rows[1].about == "e-mail: 12, phone: 7"
    assert rows[2].about == "threshold 0.8; One more sentence."
    assert rows[2][2:] == ("drop", "903", "3", "0.3\xa0%", "3")


def test_a_gate_that_did_not_run_has_no_figures() -> None:
    report = GateReport(
        gate="relevance",
        action="report",
        thresholds={"seeds": [], "quantile": 0.02},
        num_checked=0,
        num_found=0,
        num_dropped=0,
        note="No seed documents are named.",
    )
    (row,) = gate_rows([report])
    assert row.about == "quantile 0.02; No seed documents are named."
    assert row[2:] == ("report", "not measured", "", "", "")


def test_examples_name_their_gate_once() -> None:
    assert [row.gate for row in found_rows(gates())] == ["personal data", "", "", "near duplicates"]


def test_review_in_words(run: RunFolder) -> None:
    line = review_line(read_records(run))
    assert line is not None
    assert line.outcome.replace("\xa0", " ") == (
        "31 of 31 examples have a verdict, by Ada (31), Bob (31): 29 accepted, 2 rejected (6.5 %), "
        "2 of these accepted by somebody else."
    )
    assert (line.passed, line.demand) == (True, "Enough to train on.")


def test_a_review_that_is_not_enough(run: RunFolder) -> None:
    review = ReviewFile.read(run.review)
    review.num_rejected = 20
    review.write(run.review)
    line = review_line(read_records(run))
    assert line is not None
    assert line.passed is False
    assert "Not enough to train on: 20 of 31 reviewed examples were rejected" in line.demand


def test_a_review_that_nobody_demands_has_no_mark(run: RunFolder) -> None:
    recipe = sample_run.RECIPE.replace("action: fail", "action: off")
    write_recipe(run.recipe, parse_recipe(recipe, "recipe.yaml"))
    line = review_line(read_records(run))
    assert line is not None
    assert line.passed is None


def test_a_review_of_another_sample_is_none(run: RunFolder) -> None:
    write_jsonl(run.review_sample, [review_item(99).model_dump()])
    assert review_line(read_records(run)) is None
    run.review_sample.unlink()
    assert review_line(read_records(run)) is None

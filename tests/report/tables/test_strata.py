from __future__ import annotations

from doratune.record.evaluation import Stratum
from doratune.report.tables.strata import MAX_ROWS, strata
from tests.report.sample_figures import LABELS, eval_file, interval, open_eval_file


def test_strata_by_property() -> None:
    found = strata(eval_file())
    assert [part.by for part in found] == ["label", "difficulty", "base margin"]
    assert [row.name for row in found[0].rows] == LABELS
    row = found[0].rows[0]
    assert row.num_examples == "25"
    assert row.base[0] == "5.0\xa0%"
    assert row.tuned == ("97.0\xa0%", "84.0 to 100.0")
    assert row.difference == ("+92.0 points", "+72.0 to +107.0")
    assert [len(part.rows) for part in found] == [6, 3, 4]


def test_of_very_many_strata_the_largest_are_shown_in_their_order() -> None:
    rows = [
        Stratum(
            by="label",
            name=str(n),
            base=interval(0.1, 0, 0.2, n=n),
            tuned=interval(0.2, 0.1, 0.3, n=n),
            difference=interval(0.1, 0, 0.2, n=n),
        )
        for n in range(1, 101)
    ]
    (part,) = strata(eval_file(strata=rows))
    assert part.num_strata == 100
    assert [row.name for row in part.rows] == [str(n) for n in range(101 - MAX_ROWS, 101)]


def test_no_strata() -> None:
    assert strata(open_eval_file()) == []

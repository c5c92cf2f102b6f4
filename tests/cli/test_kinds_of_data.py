"""Whole runs on data that is more than questions and answers."""

from __future__ import annotations

import json

from doratune.record.schemas import RecordFile
from tests.cli.conftest import Place


def fill(place: Place, rows: list[dict[str, str]]) -> None:
    place.data.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_plain_text_is_trained_merged_and_verified_without_an_evaluation(place: Place) -> None:
    fill(place, [{"text": f"Clause {n} limits the liability of the fox."} for n in range(40)])
    ran = place("run", place.recipe)
    assert ran.code == 0, ran.err
    assert "eval left out: plain text has no answers to compare" in ran.err
    assert "Merged equals sidecar" in ran.out
    stages = RecordFile.read(place.run / "record.json").stages
    assert list(stages) == ["data", "train", "completions", "merge", "verify", "latency", "report"]
    report = (place.run / "report.html").read_text()
    assert "Whether tuned is better than base was not measured" in report
    alone = place("eval", place.recipe)
    assert alone.code == 3
    assert "plain text, which asks nothing" in alone.err


def test_preference_data_is_prepared_but_not_trained_on(place: Place) -> None:
    fill(place, [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(40)])
    for command in ("check", "run"):
        stopped = place(command, place.recipe)
        assert stopped.code == 2
        assert "training on preferences is not there yet" in stopped.err
    assert (place.run / "data" / "train.jsonl").exists()
    assert not (place.run / "adapter").exists()
    shown = place("data", "show", place.recipe, "--index", "0")
    assert "rejected, in place of the last turn" in shown.out

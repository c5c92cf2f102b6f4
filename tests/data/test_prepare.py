from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from doratune.data import read_examples
from doratune.errors import DataError
from doratune.record.files import digest_file
from doratune.record.schemas import SPLITS, RecordFile
from tests.data.preparing import Prepared, question

QUESTIONS = [question(number) for number in range(60)]
HALF = {"validation_share": 0.0, "test_share": 0.5}


def test_nothing_vanishes(prepare: Prepared) -> None:
    """Every row of every source is in a split or among the dropped, and only once."""
    first = [*QUESTIONS, QUESTIONS[3], "{broken", {"instruction": "no answer"}]
    second = [question(number) for number in range(100, 140)]
    tested = [question(number) for number in (5, *range(200, 220))]
    sources = [
        {"path": prepare.write("a.jsonl", first), "weight": 2.0},
        {"path": prepare.write("b.jsonl", second), "weight": 0.5},
    ]
    file = prepare(
        sources,
        test_source=prepare.write("t.jsonl", tested),
        gates={"structure": {"action": "drop"}},
        max_examples={"validation": 2},
        validation_share=0.2,
        max_length=300,
        on_too_long="drop",
    )
    kept, dropped = prepare.places(), Counter(row["place"] for row in prepare.dropped())
    names = [
        *(f"a.jsonl:{line}" for line in range(1, 64)),
        *(f"b.jsonl:{line}" for line in range(1, 41)),
        *(f"t.jsonl:{line}" for line in range(1, 22)),
    ]
    assert [source.num_rows for source in file.sources] == [63, 40, 21]
    assert sorted([*kept, *dropped]) == sorted(names)
    assert set(dropped.values()) == {1}
    assert sum(file.dropped.values()) == dropped.total()
    assert {row["gate"] for row in prepare.dropped()} == {
        "structure", "duplicates", "test_source", "weight", "max_examples",
    }  # fmt: skip
    rows = {row["place"]: row for row in prepare.dropped()}
    assert rows["a.jsonl:62"]["row"] == "{broken"
    assert "not JSON" in rows["a.jsonl:62"]["reason"]
    assert rows["a.jsonl:61"]["row"] == QUESTIONS[3]


def test_weights_repeat_training_examples_and_no_others(prepare: Prepared) -> None:
    sources = [
        {"path": prepare.write("a.jsonl", QUESTIONS), "weight": 2.5},
        {"path": prepare.write("b.jsonl", [question(n) for n in range(100, 160)])},
    ]
    file = prepare(sources, validation_share=0.2, test_share=0.2)
    assert [source.weight for source in file.sources] == [2.5, 1.0]
    train = prepare.places("train")
    assert {train[place] for place in train if place.startswith("a")} == {2, 3}
    assert {train[place] for place in train if place.startswith("b")} == {1}
    assert set(prepare.places("validation", "test").values()) == {1}
    assert file.splits["train"].num_examples == train.total()


def test_the_same_data_has_the_same_digests_in_every_format(prepare: Prepared) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, ["instruction", "output"])
    writer.writeheader()
    writer.writerows(QUESTIONS)
    (prepare.folder / "a.csv.gz").write_bytes(gzip.compress(table.getvalue().encode()))
    pa.parquet.write_table(pa.Table.from_pylist(QUESTIONS), prepare.folder / "a.parquet")
    prepare.write("a.jsonl", QUESTIONS)
    digests = []
    for name in ("a.jsonl", "a.csv.gz", "a.parquet"):
        file = prepare(str(prepare.folder / name))
        digests.append(
            [file.digest, file.ordered_digest]
            + [d for split in file.splits.values() for d in (split.digest, split.ordered_digest)]
        )
    assert digests[0] == digests[1] == digests[2]
    prepare([*QUESTIONS[1:], QUESTIONS[0]])
    assert file.digest == digests[0][0]


FAULTS: dict[str, tuple[list[Any], dict[str, Any], int, str]] = {
    # Rows besides QUESTIONS, options of the gate, number found, what is said of one.
    "structure": (["{", '{"instruction": "?"}'], {}, 2, "not JSON"),
    "encoding": ([question(900, output="bell \x07 " * 9)], {}, 1, r"control character U\+0007"),
    "duplicates": ([QUESTIONS[0], QUESTIONS[1]], {}, 2, r"says the same as .*a\.jsonl:1$"),
    "near_duplicates": (
        [question(7, output=QUESTIONS[7]["output"] + " Yes.")], {}, 1,
        r"nearly the same as .*a\.jsonl:61$",
    ),
    "language": (
        [question(900, instruction="Wie lautet der Name der Hauptstadt von Frankreich, bitte?",
                  output="Die Hauptstadt von Frankreich heißt Paris, das weiß jedes Kind.")],
        {"languages": ["en"]}, 1, "de, not en",
    ),
    "personal_data": ([question(900, output="Ask jane.doe@acme-corp.com.")], {}, 1, "e-mail"),
    "length": ([question(900, instruction="Why?", output="So.")], {"min_tokens": 20}, 1,
               r"^1\d tokens"),
    "leakage": (
        [question(n, output=f"{n} Sing, O goddess, the anger of Achilles son of Peleus, that "
                  f"brought countless ills upon the Achaeans. {n}") for n in range(900, 912)],
        {}, 0, "13-grams also in test",
    ),
}  # fmt: skip


@pytest.mark.parametrize("action", ["report", "drop", "fail", "off"])
@pytest.mark.parametrize("gate", FAULTS)
def test_a_gate_does_what_its_action_says(prepare: Prepared, gate: str, action: str) -> None:
    more, options, number, why = FAULTS[gate]
    if gate == "structure" and action in ("report", "off"):
        pytest.skip("a row that cannot be understood cannot be kept")
    settings: dict[str, Any] = {"gates": {gate: {**options, "action": action}}}
    if gate == "leakage":
        settings |= HALF
    rows = [*QUESTIONS, *more]
    if action == "fail":
        with pytest.raises(
            DataError, match=rf"The gate {gate} found .* is fail:\n(.*\n)*.*Correct"
        ):
            prepare(rows, **settings)
        assert not prepare.run.data.exists()
        assert not list((prepare.run.path / "data").glob("*"))
        assert RecordFile.read(prepare.run.record).stages == {}
        return
    prepare(rows, **settings)
    report = prepare.gate(gate)
    assert report.action == action
    mine = [row for row in prepare.dropped() if row["gate"] == gate]
    if action == "off":
        assert (report.num_checked, report.num_found, mine) == (0, 0, [])
        return
    number = number or report.num_found
    assert 0 < report.num_found == number <= report.num_checked <= len(rows)
    assert report.num_dropped == len(mine) == (number if action == "drop" else 0)
    assert len(report.examples) == min(number, 3)
    assert re.search(why, report.examples[0].why)
    left = {Path(example.place).name for example in report.examples} & prepare.places().keys()
    assert bool(left) == (action == "report")


def test_conflicting_labels(prepare: Prepared) -> None:
    rows = [{"text": f"clause {n}", "label": "ab"[n % 2]} for n in range(60)]
    conflict = {"text": "clause 2", "label": "b"}
    prepare([*rows, conflict])
    report = prepare.gate("conflicts")
    assert (report.num_checked, report.num_found, report.num_dropped) == (61, 2, 0)
    assert report.examples[0].why == "labelled 'a' and 'b'"
    prepare([*rows, conflict], gates={"conflicts": {"action": "drop"}})
    assert [row["place"] for row in prepare.dropped()] == ["a.jsonl:3", "a.jsonl:61"]
    with pytest.raises(DataError, match="The gate conflicts found 2 of 61"):
        prepare([*rows, conflict], gates={"conflicts": {"action": "fail"}})


def test_rare_labels_are_named(prepare: Prepared) -> None:
    rows = [{"text": f"clause {n}", "label": "ab"[n % 2]} for n in range(60)]
    rows += [{"text": f"odd {n}", "label": "rare"} for n in range(4)]
    prepare(rows)
    report = prepare.gate("labels")
    assert (report.num_found, report.kinds) == (4, {"rare": 4})
    assert report.examples[0].why == "label 'rare' has 4 examples"
    assert "'rare'" in report.note
    assert "Not in test: 'rare'." in report.note
    with pytest.raises(DataError, match="The gate labels found 4 of 64"):
        prepare(rows, gates={"labels": {"action": "fail"}})


def test_personal_data_is_masked_but_for_the_label(prepare: Prepared) -> None:
    address = "jane.doe@acme-corp.com"
    rows = [{"text": f"clause {n} by {address}", "label": "ab"[n % 2]} for n in range(60)]
    rows += [{"text": f"odd {n}", "label": address} for n in range(12)]
    prepare(rows, gates={"personal_data": {"action": "mask"}})
    report = prepare.gate("personal_data")
    assert (report.action, report.num_found, report.num_dropped) == ("mask", 72, 0)
    examples = [e for split in SPLITS for e in read_examples(prepare.run, split)]
    assert len(examples) == 72
    assert all(address not in e.messages[0].content.partition("\n")[0] for e in examples)
    assert sum("[EMAIL]" in e.messages[0].content for e in examples) == 60
    assert sum(e.answer == address for e in examples) == 12


def test_seed_documents_find_what_is_unlike_them(prepare: Prepared) -> None:
    (prepare.folder / "seeds.txt").write_text(
        "\n\n".join(f"{row['instruction']} {row['output']}" for row in QUESTIONS)
    )
    odd = question(0, instruction="Buy cheap pills now!", output="Click here, win big, act fast!")
    relevance = {"seeds": [str(prepare.folder / "seeds.txt")], "action": "drop"}
    prepare([*QUESTIONS, odd], gates={"relevance": relevance})
    report = prepare.gate("relevance")
    assert "a.jsonl:61" in [row["place"] for row in prepare.dropped()]
    assert report.num_dropped <= 2  # a fiftieth of 61 rows
    assert "below" in report.examples[0].why


def test_evaluation_sets_are_compared_with_training_examples(prepare: Prepared) -> None:
    long = "Sing, O goddess, the anger of Achilles son of Peleus, that brought countless ills."
    rows = [*QUESTIONS, question(900, output=long)]
    benchmark = prepare.write("benchmark.jsonl", [{"question": {"stem": f"Who wrote: {long}"}}])
    leakage = {"evaluation_sets": [benchmark], "action": "drop"}
    prepare(rows, gates={"leakage": leakage}, validation_share=0.0, test_share=0.0)
    report = prepare.gate("leakage")
    assert [row["place"] for row in prepare.dropped()] == ["a.jsonl:61"]
    assert report.kinds == {benchmark: 1}
    prepare.write("benchmark.jsonl", [{"question": "Who?"}])
    prepare(rows, gates={"leakage": leakage}, validation_share=0.0, test_share=0.0)
    assert prepare.dropped() == []


def test_surprising_answers_are_found_by_the_base(prepare: Prepared) -> None:
    prepare(QUESTIONS, gates={"quality": {"action": "report", "quantile": 0.05}})
    report = prepare.gate("quality")
    assert 3 <= report.num_found <= 15
    assert report.num_checked == 60
    assert sum(report.kinds.values()) >= report.num_found


def test_a_group_never_crosses_splits(prepare: Prepared) -> None:
    rows = [{**row, "contract": f"c{n % 12}"} for n, row in enumerate(QUESTIONS)]
    prepare(rows, group_column="contract", validation_share=0.3, test_share=0.3)
    splits = [
        {int(place.rpartition(":")[2]) % 12 for place in prepare.places(split)} for split in SPLITS
    ]
    assert all(splits)
    assert sum(map(len, splits)) == 12


def test_near_duplicates_never_cross_splits(prepare: Prepared) -> None:
    asked = [{**row, "instruction": row["instruction"] + " Please."} for row in QUESTIONS]
    prepare([*QUESTIONS, *asked], **HALF, gates={"near_duplicates": {"threshold": 0.6}})
    assert prepare.gate("near_duplicates").num_found == 60
    train, test = (
        {(int(place.rpartition(":")[2]) - 1) % 60 for place in prepare.places(split)}
        for split in ("train", "test")
    )
    assert train
    assert test
    assert not train & test
    # Where nobody looks for them, they do.
    prepare([*QUESTIONS, *asked], **HALF, gates={"near_duplicates": {"action": "off"}})
    train, test = (
        {(int(place.rpartition(":")[2]) - 1) % 60 for place in prepare.places(split)}
        for split in ("train", "test")
    )
    assert train & test


def test_near_duplicates_of_the_test_source_leave_training(prepare: Prepared) -> None:
    near = question(7, instruction=QUESTIONS[7]["instruction"] + " Please.")
    test = prepare.write("t.jsonl", [near, question(300)])
    prepare(QUESTIONS, test_source=test)
    assert [(row["place"], row["gate"]) for row in prepare.dropped()] == [
        ("a.jsonl:8", "near_duplicates")
    ]
    assert prepare.places("test") == {"t.jsonl:1": 1, "t.jsonl:2": 1}


def test_more_rows_than_allowed_are_refused(prepare: Prepared) -> None:
    with pytest.raises(DataError, match=r"more than 59 rows \(data\.max_rows\)"):
        prepare(QUESTIONS, max_rows=59)
    assert prepare(QUESTIONS, max_rows=60).sources[0].num_rows == 60


def test_sources_of_two_formats_are_refused(prepare: Prepared) -> None:
    chat = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
    sources = [
        {"path": prepare.write("a.jsonl", QUESTIONS)},
        {"path": prepare.write("b.jsonl", [chat])},
    ]
    with pytest.raises(DataError, match=r"a\.jsonl is read as alpaca, but .*b\.jsonl as chat"):
        prepare(sources)


def test_the_record_holds_what_went_in_and_came_out(prepare: Prepared) -> None:
    prepare(QUESTIONS)
    entry = RecordFile.read(prepare.run.record).stages["data"]
    assert entry.inputs.keys() == {"sources", "compared", "recipe", "tokenizer"}
    for name in ("data.json", *(f"data/{split}.jsonl" for split in SPLITS), "data/dropped.jsonl",
                 "data/review.jsonl"):  # fmt: skip
        assert entry.outputs[name] == digest_file(prepare.run.path / name)
    assert not (prepare.run.path / "data" / ".work").exists()


def test_the_table_shows_every_gate(prepare: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    file = prepare([*QUESTIONS, QUESTIONS[0], question(900, output="Ask jane@acme-corp.com.")])
    shown = capsys.readouterr().err
    assert "e-mail 1" in shown
    assert str(prepare.folder) not in shown.partition("Data gates")[2].partition("rows, read")[0]
    assert [report.gate for report in file.gates] == [
        "structure", "encoding", "duplicates", "conflicts", "labels", "near_duplicates", "language",
        "personal_data", "relevance", "quality", "length", "leakage",
    ]  # fmt: skip
    for report in file.gates:
        assert report.gate in shown
    assert "a.jsonl:61" in shown
    assert json.loads(prepare.run.data.read_text())["gates"][2]["examples"][0]["id"] == next(
        e.id for s in SPLITS for e in read_examples(prepare.run, s) if e.place.endswith(":1")
    )


def test_chunks_of_which_nothing_is_left(
    prepare: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doratune.data.passes.reading.CHUNK_ROWS", 10)
    rows = [*QUESTIONS[:10], *QUESTIONS[:10], *["{"] * 10, *QUESTIONS[10:]]
    file = prepare(rows, gates={"structure": {"action": "drop"}})
    assert sum(summary.num_examples for summary in file.splits.values()) == 60
    assert file.dropped.keys() == {
        "exact duplicate", "cannot be read or does not fit the format",
    }  # fmt: skip
    nothing = [{"instruction": "?"}] * 30
    with pytest.raises(DataError, match=r"train split is empty \(train 0"):
        prepare(nothing, format="alpaca", gates={"structure": {"action": "drop"}})

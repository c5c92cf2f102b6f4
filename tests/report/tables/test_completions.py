from __future__ import annotations

from doratune.report.tables.completions import MAX_PAIRS, completions, judge_rows
from tests.report.sample_abilities import completion_items, judge_file


def test_some_of_the_prompts_from_all_of_the_file() -> None:
    found = completions(completion_items())
    assert len(found) == MAX_PAIRS
    assert [row.place for row in found] == [
        "clauses:3",
        "clauses:8",
        "clauses:13",
        "clauses:18",
        "edge case 3",
        "edge case 8",
    ]
    assert found[0].prompt == "Summarise clause 2."
    assert found[0].answers == [
        ("Base model", "base", "The clause, the clause (2)"),
        ("Reference", "", "A cap (2)."),
        ("Tuned model", "tuned", "Liability is capped (2)."),
    ]


def test_few_prompts_are_all_shown() -> None:
    assert [row.place for row in completions(completion_items(2))] == ["clauses:1", "clauses:2"]
    assert completions([]) == []


def test_the_judge_in_words() -> None:
    rows = {name: value.replace("\xa0", " ") for name, value, _ in judge_rows(judge_file())}
    assert rows["Pairs"] == "20, 1 of equal answers"
    assert rows["Tuned wins"] == "55.0 % (34.2 to 74.2)"
    assert rows["Sign test"] == "p = 0.057"
    assert rows["Verdict changes with the order"] == "21.1 % (8.5 to 43.3)"
    rows = {name: value for name, value, _ in judge_rows(judge_file(flipped=None))}
    assert rows["Verdict changes with the order"] == "—"

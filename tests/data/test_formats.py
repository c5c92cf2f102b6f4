from __future__ import annotations

from typing import Any

import pytest

from doratune.data.formats import detect_format, read_drafts, to_example
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.files import digest_json
from doratune.record.schemas import Example


def section(**values: Any) -> DataSection:
    return DataSection(source="a.jsonl", **values)


def read(form: Any, *rows: dict[str, Any], **values: Any) -> list[Example]:
    settings = section(**values)
    drafts, _ = read_drafts([Row(r, f"a:{n}") for n, r in enumerate(rows, 1)], form, settings)
    return [to_example(draft, form, settings, ["no", "yes"]) for draft in drafts]


def spoken(example: Example) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages]


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"{role} says"} for role in roles]}


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        (["contract", "text", "labels", "label"], "classification"),
        (["instruction", "output"], "alpaca"),
        (["instruction", "input", "output", "answer"], "alpaca"),
        (["messages", "id"], "chat"),
    ],
)
def test_the_columns_decide_the_format(columns: list[str], form: str) -> None:
    assert detect_format([Row(dict.fromkeys(columns, "x"), "a:1")], section())[0] == form


def test_a_named_format_is_taken_at_its_word() -> None:
    row = Row({"messages": [], "text": "", "label": ""}, "a:1")
    assert detect_format([row], section(format="chat")) == ("chat", "data.format is 'chat'")
    with pytest.raises(
        DataError, match=r"a:1: the columns 'messages', 'text', 'label' fit classif"
    ):
        detect_format([row], section())
    with pytest.raises(DataError, match=r"a:1: the columns 'question' fit no known format"):
        detect_format([Row({"question": ""}, "a:1")], section())


def test_classification_fills_in_the_prompt() -> None:
    (example,) = read("classification", {"text": "{labels} {text}", "label": " yes "})
    assert spoken(example) == [
        ("user", "{labels} {text}\n\nAnswer with one of these labels: no, yes."),
        ("assistant", "yes"),
    ]
    assert (example.label, example.place) == ("yes", "a:1")
    assert (
        example.id == digest_json([m.model_dump(exclude_none=True) for m in example.messages])[:16]
    )


def test_classification_takes_integers_and_drops_null() -> None:
    rows = [
        Row({"text": f"t{n}", "label": label}, f"a:{n}") for n, label in enumerate([1, None, 0])
    ]
    drafts, dropped = read_drafts(rows, "classification", section())
    assert [draft.label for draft in drafts] == ["1", "0"]
    assert dropped == [(rows[1], "label is null")]


def test_alpaca_joins_instruction_and_input() -> None:
    examples = read(
        "alpaca",
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Add.", "input": "", "output": "?"},
        {"instruction": "Add.", "input": None, "output": "?", "answer": "x"},
    )
    assert spoken(examples[0]) == [("user", "Add.\n\n1 and 2"), ("assistant", "3")]
    assert spoken(examples[1]) == spoken(examples[2]) == [("user", "Add."), ("assistant", "?")]
    assert examples[0].label is None
    (labelled,) = read("alpaca", {"instruction": "Q", "output": "yes\n"}, labels_from_answers=True)
    assert labelled.label == labelled.answer == "yes"


def test_chat_keeps_every_turn() -> None:
    (example,) = read("chat", chat("system", "user", "assistant", "user", "assistant"))
    assert [role for role, _ in spoken(example)] == ["system", *["user", "assistant"] * 2]
    assert example.answer == "assistant says"


@pytest.mark.parametrize(
    ("form", "row", "match"),
    [
        ("classification", {"txt": "a", "label": "b"}, r"a:1: column 'text' "
         r"\(data\.text_column\) is missing; found 'txt', 'label'; did you mean 'txt'"),
        ("classification", {"text": " ", "label": "b"}, "a:1: text is empty"),
        ("classification", {"text": 7, "label": "b"}, "a:1: text is 7; expected text"),
        ("classification", {"text": "a", "label": 1.5}, r"a:1: label is 1\.5; expected a string"),
        ("classification", {"text": "a", "label": True}, "a:1: label is True; expected a string"),
        ("classification", {"text": "a", "label": ""}, "a:1: label is an empty string"),
        ("alpaca", {"instruction": "a", "output": ""}, "a:1: output is empty"),
        ("alpaca", {"instruction": "a"}, "a:1: column 'output' is missing; found 'instruction'"),
        ("alpaca", {"instruction": "a", "input": 3, "output": "b"}, "a:1: input is 3; expected"),
        ("chat", {"messages": "hello"}, "a:1: messages is 'hello'; expected a list of turns"),
        ("chat", {"messages": ["hello"]}, "a:1: turn 1 is 'hello'; expected an object"),
        ("chat", chat("user", "assistant", "user"), "a:1: the last turn, 3, is user"),
        ("chat", chat("system"), "a:1: the last turn, 1, is system"),
        ("chat", chat("assistant"), "a:1: turn 1 is assistant, expected user"),
        ("chat", chat("system", "user", "user"), "a:1: turn 3 is user, expected assistant"),
        ("chat", chat("user", "tool", "assistant"), "a:1: turn 2 uses tools .*not supported yet"),
        ("chat", chat("human", "assistant"), "a:1: turn 1 has role 'human'; expected system"),
        ("chat", {"messages": [{"role": "user", "content": None}]}, "turn 1 has content None"),
    ],
)  # fmt: skip
def test_refuses(form: str, row: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(form, row)


def test_all_bad_rows_are_counted() -> None:
    rows = [{"text": "a", "label": "b"}, *[{"text": "", "label": "b"}] * 7]
    with pytest.raises(
        DataError, match=r"has 7 problems:\n  a:2: text is empty(.*\n)+  and 2 more"
    ):
        read("classification", *rows)

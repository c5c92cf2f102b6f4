from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from doratune.data.formats import Format, detect_format, to_draft, to_example
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.files import digest_json
from doratune.record.schemas import Example


def section(**values: Any) -> DataSection:
    return DataSection(source="a.jsonl", **values)


def read(form: Any, content: dict[str, Any], **values: Any) -> Example:
    settings = section(**values)
    draft = to_draft(Row(content, "a:1"), form, settings)
    assert draft is not None
    return to_example(draft, form, settings, ["no", "yes"])


def spoken(example: Example) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages]


def rows(*columns: list[str]) -> list[Row]:
    return [Row(dict.fromkeys(names, "x"), f"a:{n}") for n, names in enumerate(columns, 1)]


@pytest.mark.parametrize(
    ("columns", "form", "used"),
    [
        (["contract", "text", "labels", "label"], "classification", ["text", "label"]),
        (["instruction", "output"], "alpaca", ["instruction", "output"]),
        (["instruction", "input", "output", "answer"], "alpaca", ["instruction", "input", "output"]),
        (["messages", "id", "tools"], "chat", ["messages", "tools"]),
        (["id", "conversations"], "sharegpt", ["conversations"]),
        (["prompt", "completion"], "completion", ["prompt", "completion"]),
        (["prompt", "chosen", "rejected"], "preference", ["prompt", "chosen", "rejected"]),
        (["chosen", "rejected", "score"], "preference", ["chosen", "rejected"]),
        (["text"], "text", ["text"]),
    ],
)  # fmt: skip
def test_the_columns_decide_the_format(columns: list[str], form: str, used: list[str]) -> None:
    reason = f"columns {', '.join(map(repr, used))} of a:1"
    assert detect_format(rows(columns), section()) == (form, reason)


def test_a_named_format_is_taken_at_its_word() -> None:
    (row,) = rows(["messages", "text", "label"])
    assert detect_format([row], section(format="chat")) == ("chat", "data.format is 'chat'")
    with pytest.raises(
        DataError, match=r"a:1: the columns 'messages', 'text', 'label' fit classification and chat"
    ):
        detect_format([row], section())


def test_named_columns_are_looked_for() -> None:
    (row,) = rows(["clause", "kind", "text"])
    found = detect_format([row], section(text_column="clause", label_column="kind"))
    assert found == ("classification", "columns 'clause', 'kind' of a:1")


def test_unknown_columns_show_the_known_formats_and_the_remedy() -> None:
    with pytest.raises(
        DataError,
        match=r"a:1: the columns 'question' fit no known format \(classification has text and "
        r"label; alpaca .* preference has chosen and rejected; text has text alone\)\. Set data\.f",
    ):
        detect_format(rows(["question"]), section())


def test_text_beside_another_column_is_not_taken_for_plain_text() -> None:
    with pytest.raises(DataError, match="the columns 'text', 'category' fit no known format"):
        detect_format(rows(["text", "category"]), section())


def test_most_of_the_first_rows_decide() -> None:
    chat, odd, alpaca = ["messages"], ["comment"], ["instruction", "output"]
    assert detect_format(rows(odd, chat, chat, alpaca), section()) == (
        "chat",
        "columns 'messages' of a:2",
    )
    with pytest.raises(DataError, match=r"a:1 fits chat, but a:2 fits alpaca, and so do 1 each"):
        detect_format(rows(chat, alpaca), section())


def test_classification_fills_in_the_prompt() -> None:
    example = read("classification", {"text": "{labels} {text}", "label": " yes "})
    assert spoken(example) == [
        ("user", "{labels} {text}\n\nAnswer with one of these labels: no, yes."),
        ("assistant", "yes"),
    ]
    assert (example.label, example.place) == ("yes", "a:1")
    # As it was before there were tools and preferences: runs made then keep their examples' ids.
    turns = [{"role": role, "content": content} for role, content in spoken(example)]
    assert example.id == digest_json(turns)[:16]


def test_classification_takes_integers_and_leaves_out_null() -> None:
    assert read("classification", {"text": "t", "label": 0}).label == "0"
    assert to_draft(Row({"text": "t", "label": None}, "a:1"), "classification", section()) is None


def test_alpaca_joins_instruction_and_input() -> None:
    whole = read("alpaca", {"instruction": "Add.", "input": "1 and 2", "output": "3"})
    assert spoken(whole) == [("user", "Add.\n\n1 and 2"), ("assistant", "3")]
    assert whole.label is None
    for nothing in ("", None):
        row = {"instruction": "Add.", "input": nothing, "output": "?", "answer": "x"}
        assert spoken(read("alpaca", row)) == [("user", "Add."), ("assistant", "?")]
    labelled = read("alpaca", {"instruction": "Q", "output": "yes\n"}, labels_from_answers=True)
    assert labelled.label == labelled.answer == "yes"


def test_plain_text_is_one_assistant_turn_and_gets_no_system_turn() -> None:
    example = read("text", {"text": "Once upon a time\n"}, system="Be brief.")
    assert spoken(example) == [("assistant", "Once upon a time\n")]


def test_plain_texts_have_different_prompts_for_the_gates() -> None:
    one, two = (to_draft(Row({"text": t}, "a:1"), "text", section()) for t in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one.asked != two.asked
    assert one.group != two.group


ROWS: dict[Format, dict[str, Any]] = {
    "classification": {"text": "t", "label": "yes"},
    "alpaca": {"instruction": "i", "output": "o"},
    "chat": {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
    "completion": {"prompt": "p", "completion": "c"},
    "preference": {"prompt": "p", "chosen": "c", "rejected": "r"},
    "text": {"text": "t"},
}


@pytest.mark.parametrize("form", get_args(Format))
def test_the_users_groups_work_for_every_format(form: Format) -> None:
    def group(contract: Any) -> str:
        row = Row({**ROWS[form], "contract": contract}, "a:1")
        draft = to_draft(row, form, section(group_column="contract"))
        assert draft is not None
        return draft.group

    assert (group("A"), group(7)) == ("A", "7")
    own = to_draft(Row(ROWS[form], "a:1"), form, section())
    assert own is not None
    assert group(None) == own.group
    for wrong in ("", True, 1.5, ["A"]):
        with pytest.raises(
            DataError, match=r"contract \(data\.group_column\) is .*; expected a st"
        ):
            group(wrong)
    with pytest.raises(DataError, match=r"column 'contact' \(data\.group_column\) is missing"):
        to_draft(Row(ROWS[form], "a:1"), form, section(group_column="contact"))


@pytest.mark.parametrize("form", get_args(Format))
def test_detection_and_reading_agree(form: Format) -> None:
    row = Row(ROWS[form], "a:1")
    assert detect_format([row], section())[0] == form
    assert to_draft(row, form, section()) is not None


@pytest.mark.parametrize(
    ("form", "row", "match"),
    [
        ("classification", {"txt": "a", "label": "b"}, r"column 'text' \(data\.text_column\) is "
         "missing; found 'txt', 'label'; did you mean 'txt'"),
        ("classification", {"text": " ", "label": "b"}, "text is empty"),
        ("classification", {"text": 7, "label": "b"}, "text is 7; expected text"),
        ("classification", {"text": "a", "label": 1.5}, r"label is 1\.5; expected a string"),
        ("classification", {"text": "a", "label": True}, "label is True; expected a string"),
        ("classification", {"text": "a", "label": ""}, "label is an empty string"),
        ("alpaca", {"instruction": "a", "output": ""}, "output is empty"),
        ("alpaca", {"instruction": "a"}, "column 'output' is missing; found 'instruction'"),
        ("alpaca", {"instruction": "a", "input": 3, "output": "b"}, "input is 3; expected a str"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["q", "a"]]},
         r"history is \[\['q', 'a'\]\], which would be lost"),
        ("text", {"text": "\n"}, "text is empty"),
    ],
)  # fmt: skip
def test_refuses(form: Format, row: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(form, row)


@pytest.mark.parametrize(
    ("file", "form", "fitting"),
    [
        ("instruct/alpaca_gpteacher_5k", "alpaca", 5000),
        ("instruct/chat_sgd_5k", "chat", 5000),
        ("legal/cuad_clauses.test", "classification", 1920),
        ("preference/llmbar", "preference", 419),
        ("preference/orca_dpo_sample", "preference", 284),
        ("preference/pandalm_human", "preference", 835),
    ],
)
def test_real_files(shared_data: Path, file: str, form: Format, fitting: int) -> None:
    with gzip.open(shared_data / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
        content = [Row(json.loads(line), f"{file}:{n}") for n, line in enumerate(lines, 1)]
    found, reason = detect_format(content[:100], section())
    assert (found, reason.partition(" of ")[2]) == (form, f"{file}:1")
    drafts = []
    for row in content:
        if row.place == "preference/pandalm_human:371":  # Its prompt is a space.
            with pytest.raises(DataError, match="prompt is empty"):
                to_draft(row, form, section())
        else:
            drafts.append(to_draft(row, form, section()))
    assert sum(draft is not None for draft in drafts) == fitting

from __future__ import annotations

import json
from typing import Any

import pytest

from doratune.data.formats import Draft, Format, to_draft, to_example
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection
from doratune.record.schemas import Example

SECTION = DataSection(source="a.jsonl")
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}


def draft(form: Format, row: dict[str, Any]) -> Draft:
    made = to_draft(Row(row, "a:1"), form, SECTION)
    assert made is not None
    return made


def read(form: Format, row: dict[str, Any]) -> Example:
    return to_example(draft(form, row), form, SECTION, [])


def spoken(example: Example) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages]


def turns(*roles: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": f"{role} says"} for role in roles]


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": turns(*roles)}


def said(**turn: Any) -> dict[str, Any]:
    return {"messages": [*turns("user"), {"role": "assistant", "content": "ok", **turn}]}


def test_chat_keeps_every_turn() -> None:
    example = read("chat", chat("system", "user", "assistant", "user", "assistant"))
    assert [role for role, _ in spoken(example)] == ["system", *["user", "assistant"] * 2]
    assert example.answer == "assistant says"
    assert all(message.weight is None for message in example.messages)


def test_chat_keeps_calls_results_and_tools() -> None:
    asked, answered = {"role": "user", "content": "Bonn?"}, {"role": "assistant", "content": "Dry."}
    arguments = json.dumps(CALL["function"]["arguments"])  # type: ignore[index]
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}},
            {"name": "weather", "arguments": {"city": "Bonn"}},
        ],
    }  # fmt: skip
    results = [
        {"role": "tool", "content": "dry", "tool_call_id": "c1", "name": "weather"},
        {"role": "tool", "content": ""},
    ]
    row = {"messages": [asked, called, *results, answered], "tools": json.dumps(TOOLS)}
    example = read("chat", row)
    assert example.tools == TOOLS
    assert example.messages[1].content == ""
    assert example.messages[1].tool_calls == [{"id": "c1", **CALL}, CALL]
    assert example.messages[2].model_dump(exclude_none=True) == results[0]
    assert spoken(example)[3:] == [("tool", ""), ("assistant", "Dry.")]
    assert "Bonn" in draft("chat", row).text.splitlines()[1]


def test_a_conversation_may_end_with_a_call() -> None:
    example = read("chat", said(content="", tool_calls=[CALL]))
    assert example.messages[-1].tool_calls == [CALL]
    assert example.tools is None


def test_tools_and_rejected_answers_make_another_example() -> None:
    plain, tooled = chat("user", "assistant"), {**chat("user", "assistant"), "tools": TOOLS}
    assert draft("chat", plain).identity != draft("chat", tooled).identity
    assert read("chat", plain).id != read("chat", tooled).id
    pairs = [{"prompt": "p", "chosen": "c", "rejected": word} for word in ("r", "s")]
    assert read("preference", pairs[0]).id != read("preference", pairs[1]).id
    assert draft("preference", pairs[0]).asked == draft("preference", pairs[1]).asked


def test_other_spellings_of_chat() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    row = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": parts, "name": "Ann"},
            {"role": "assistant", "content": "a", "tool_calls": None, "weight": 0},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "b", "weight": 1},
        ]
    }
    example = read("chat", row)
    assert spoken(example)[:2] == [("system", "Be brief."), ("user", "one two")]
    assert [message.weight for message in example.messages] == [None, None, 0, None, None]


def test_sharegpt_is_mapped_to_chat() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Bonn?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
            {"from": "observation", "value": "dry"},
            {"from": "GPT", "value": "Dry."},
            {"role": "user", "content": "Thanks."},
            {"from": "assistant", "value": "!", "weight": 0},
            {"from": "user", "value": "Bye."},
            {"from": "bot", "value": "Bye."},
        ],
        "system": "Be brief.",
        "tools": json.dumps(TOOLS),
    }  # fmt: skip
    example = read("sharegpt", row)
    assert [role for role, _ in spoken(example)] == [
        "system", "user", "assistant", "tool", *["assistant", "user"] * 2, "assistant",
    ]  # fmt: skip
    assert spoken(example)[0] == ("system", "Be brief.")
    assert example.messages[2].tool_calls == [CALL]
    assert example.messages[6].weight == 0
    assert example.tools == TOOLS
    own = {
        "conversations": [{"from": "system", "value": "s"}, *row["conversations"]],
        "system": "x",
    }
    assert spoken(read("sharegpt", own))[:2] == [("system", "s"), ("user", "Bonn?")]


def test_completion_of_texts() -> None:
    example = read("completion", {"prompt": "The sky is", "completion": " blue.", "id": 3})
    assert spoken(example) == [("user", "The sky is"), ("assistant", " blue.")]
    more = read("completion", {"prompt": "Sort.", "input": "b a", "completion": "a b"})
    assert spoken(more)[0] == ("user", "Sort.\n\nb a")


def test_only_the_completion_is_learnt() -> None:
    prompt, completion = turns("user", "assistant", "user"), turns("assistant")
    example = read("completion", {"prompt": prompt, "completion": completion})
    assert [message.weight for message in example.messages] == [None, 0, None, None]


def test_preference_keeps_both_answers() -> None:
    example = read("preference", {"prompt": "p", "input": "i", "chosen": "c", "rejected": "r"})
    assert spoken(example) == [("user", "p\n\ni"), ("assistant", "c")]
    assert example.rejected is not None
    assert [message.content for message in example.rejected] == ["r"]
    listed = {
        "prompt": turns("system", "user"),
        "chosen": [{"role": "assistant", "content": "c"}],
        "rejected": [{"role": "assistant", "content": "r"}],
    }
    assert [role for role, _ in spoken(read("preference", listed))] == [
        "system", "user", "assistant",
    ]  # fmt: skip
    assert "r" in draft("preference", listed).text.splitlines()


def test_an_implicit_prompt_is_what_both_begin_with() -> None:
    common = turns("user", "assistant", "user")
    row = {
        name: [*common, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")
    }
    for prompt in ({}, {"prompt": None}):
        example = read("preference", {**row, **prompt})
        assert example.answer == "chosen"
        assert [m.content for m in example.rejected or []] == ["rejected"]
        # As if the prompt had stood in a column of its own.
        explicit = {name: turns[-1:] for name, turns in row.items()}
        assert example == read("preference", {"prompt": common, **explicit})


GOOD = {
    "chosen": turns("user", "assistant"),
    "rejected": [*turns("user"), {"role": "assistant", "content": "r"}],
}


@pytest.mark.parametrize(
    ("form", "row", "match"),
    [
        ("chat", {"messages": "hello"}, "messages is 'hello'; expected a list of turns"),
        ("chat", {"messages": ["hello"]}, "turn 1 is 'hello'; expected an object"),
        ("chat", chat("user", "assistant", "user"), "the last turn, 3, is user"),
        ("chat", chat("system"), "the last turn, 1, is system"),
        ("chat", chat("assistant"), "turn 1 is assistant, expected user"),
        ("chat", chat("system", "user", "user"), "turn 3 is user, expected assistant"),
        ("chat", chat("user", "tool", "assistant"), "turn 2 is tool, expected assistant"),
        ("chat", chat("user", "assistant", "tool", "user", "assistant"),
         "turn 4 is user, expected tool or assistant"),
        ("chat", {"messages": [*said(tool_calls=[CALL])["messages"], *turns("user", "assistant")]},
         "turn 3 is user, expected tool;"),
        ("chat", chat("human", "assistant"), "turn 1 has role 'human'; expected system, user, as"),
        ("chat", {"messages": [{"role": "user", "content": None}]}, "turn 1 has content None"),
        ("chat", said(content=""), "turn 2 has content ''; expected text"),
        ("chat", said(content=[{"type": "image_url"}]), r"turn 2 has content \[.*parts of type tex"),
        ("chat", said(reasoning_content="Hm"), "turn 2 has reasoning_content 'Hm', which would be"),
        ("chat", said(weight=0), "the last turn, 2, has weight 0"),
        ("chat", said(weight=2), "turn 2 has weight 2; expected 0 or 1"),
        ("chat", said(tool_calls="f()"), r"turn 2, assistant, has tool_calls 'f\(\)'; expected a li"),
        ("chat", said(tool_calls=[7]), "turn 2, call 1 is 7; expected an object with name and arg"),
        ("chat", said(tool_calls=[{"name": "f", "arguments": "{"}]),
         "turn 2, call 1, arguments is '{', which is not JSON"),
        ("chat", said(tool_calls=[{"name": "f", "arguments": [1]}]), r"has arguments \[1\]; expecte"),
        ("chat", {"messages": [{"role": "user", "content": "u", "tool_calls": [CALL]}]},
         "turn 1, user, has tool_calls"),
        ("chat", {"messages": [*turns("user", "assistant"), {"role": "tool", "name": 7}]},
         "turn 3 has name 7; expected a string"),
        ("chat", {**chat("user", "assistant"), "tools": "[1]"}, r"tools is \[1\]; expected a list of"),
        ("chat", {**chat("user", "assistant"), "tools": "weather"}, "tools is 'weather', which is n"),
        ("sharegpt", {"conversations": []}, r"conversations is \[\]; expected a list of turns"),
        ("sharegpt", {"conversations": ["hi"]}, "turn 1 is 'hi'; expected an object with from and"),
        ("sharegpt", {"conversations": [{"from": "narrator", "value": "x"}]},
         "turn 1 is from 'narrator'; expected human, user, gpt"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "call me"}]},
         "turn 1 is a function_call of 'call me', which is not JSON"),
        ("completion", {"prompt": "p", "completion": ""}, "completion is empty"),
        ("completion", {"prompt": [], "completion": []}, r"prompt is \[\]; expected a list of turns"),
        ("completion", {"prompt": "p", "completion": turns("assistant")},
         r"prompt is 'p', but completion is \[.*; expected two texts or two lists"),
        ("completion", {"prompt": turns("user"), "completion": turns("user")},
         "turn 2 is user, expected assistant"),
        ("completion", {"prompt": "p", "completion": "c", "label": False}, "unpaired preference data"),
        ("completion", {"prompt": "p", "completion": "c", "label": "True"}, "unpaired preference data"),
        ("preference", {"prompt": "p", "chosen": "x", "rejected": "x"},
         "chosen and rejected are both 'x'; expected two different answers"),
        ("preference", {"chosen": GOOD["chosen"], "rejected": GOOD["chosen"]},
         "chosen and rejected are both 'assistant says'"),
        ("preference", {"chosen": "The sky is blue.", "rejected": "The sky is green."},
         "chosen is 'The sky is blue.' and there is no column 'prompt'"),
        ("preference", {**GOOD, "chosen": turns("system", "user", "assistant")},
         "chosen and rejected differ from turn 1 on"),
        ("preference", {**GOOD, "chosen": turns("user")},
         "after the prompt chosen has the turns none; expected one assistant turn"),
        ("preference", {**GOOD, "rejected": turns("user", "assistant", "user", "assistant")},
         "after the prompt chosen has the turns none"),
        ("preference", {**GOOD, "chosen": turns("user", "assistant", "user", "assistant")},
         "after the prompt chosen has the turns assistant, user, assistant; expected one"),
    ],
)  # fmt: skip
def test_refuses(form: Format, row: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(form, row)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl
from transformers import PreTrainedTokenizerBase

from doratune.data.render import Renderer
from doratune.data.render.template import ChatTemplate
from doratune.errors import DataError
from doratune.record.schemas import Message
from tests.data.render.templates import FORGETTING, THINKING
from tests.tiny import tiny_tokenizer

# TRL carries the chat templates of many model families for its own tests and patches.
TEMPLATES = Path(trl.__file__).parent / "chat_templates"

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALLING = [
    Message(role="user", content="Bonn?"),
    Message(role="assistant", content="", tool_calls=[CALL, CALL]),
    Message(role="tool", content="dry", name="weather"),
    Message(role="tool", content="wet", name="weather"),
    Message(role="assistant", content="Both."),
    Message(role="user", content="Thanks."),
    Message(role="assistant", content="Bye."),
]


def with_template(template: str) -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def real(name: str) -> PreTrainedTokenizerBase:
    tokenizer = with_template((TEMPLATES / f"{name}.jinja").read_text())
    special = ["<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<｜end▁of▁sentence｜>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special, "bos_token": "<bos>"})
    return tokenizer


def learnt(renderer: Renderer, messages: list[Message], tools: Any = None) -> list[str]:
    text, spans = renderer._spoken(messages, tools)
    assert renderer.examples([(messages, tools)]) == [renderer.example(messages, tools)]
    return [text[start:end] for start, end in spans]


def test_tool_turns_are_shown_and_only_the_assistant_is_learnt() -> None:
    renderer = Renderer(real("qwen2_5"))
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
    assert learnt(renderer, CALLING, TOOLS) == [
        f"{call}\n{call}<|im_end|>",
        "Both.<|im_end|>",
        "Bye.<|im_end|>",
    ]
    text = renderer.tokenizer.decode(renderer.example(CALLING, TOOLS).input_ids)
    assert "Tells the weather." in text
    assert "<tool_response>\ndry\n</tool_response>\n<tool_response>\nwet" in text
    assert "Tells the weather." not in renderer.tokenizer.decode(renderer.prompt(CALLING[:1]))


def test_a_conversation_may_end_with_a_call() -> None:
    renderer = Renderer(real("qwen2_5"))
    ids = renderer.example(CALLING[:2], TOOLS).input_ids
    answer = renderer.answer(CALLING[:1], CALLING[1], TOOLS)
    assert ids == renderer.prompt(CALLING[:1], TOOLS) + answer
    assert renderer.tokenizer.decode(answer).startswith('<tool_call>\n{"name": "weather"')


def test_the_end_token_inside_a_call_does_not_end_the_answer() -> None:
    strange = {"type": "function", "function": {"name": "say", "arguments": {"x": "<|im_end|>"}}}
    messages = [CALLING[0], Message(role="assistant", content="", tool_calls=[strange])]
    (answer,) = learnt(Renderer(real("qwen2_5")), messages)
    assert answer.endswith('{"x": "<|im_end|>"}}\n</tool_call><|im_end|>')


@pytest.mark.parametrize(
    ("messages", "tools", "lost"),
    [
        (CALLING[:1] + CALLING[4:5], TOOLS, "tools"),
        (CALLING[:2], None, "tool_calls"),
        (CALLING, TOOLS, "tools and tool_calls"),
    ],
)
def test_what_the_template_does_not_show_is_refused(
    messages: list[Message], tools: Any, lost: str
) -> None:
    renderer = Renderer(tiny_tokenizer())
    for render in (
        lambda: renderer.example(messages, tools),
        lambda: renderer.examples([(CALLING[:1] + CALLING[4:5], None), (messages, tools)]),
    ):
        with pytest.raises(DataError, match=f"The conversation has {lost}, which the chat templ"):
            render()


def test_tool_results_as_turns_need_no_template_of_their_own() -> None:
    messages = [CALLING[0], Message(role="assistant", content="weather()"), *CALLING[2:]]
    assert learnt(Renderer(tiny_tokenizer()), messages)[0] == "weather()<|im_end|>"


def test_alpaca_refuses_tools() -> None:
    with pytest.raises(DataError, match=r"has the turns user, assistant and tools; data\.template"):
        Renderer(tiny_tokenizer(), "alpaca").example(CALLING[:1] + CALLING[4:5], TOOLS)


def test_an_answer_that_ends_otherwise_does_not_swallow_the_next_turns() -> None:
    tokenizer = real("gptoss")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|return|>", "<|start|>"]})
    messages = [m.model_copy() for m in CALLING[:1] + CALLING[4:]]
    with pytest.raises(
        DataError, match=r"does not close answer 1 with '<\|return\|>'\. Give every answer but"
    ):
        Renderer(tokenizer).example(messages)
    messages[1].weight = 0
    assert learnt(Renderer(tokenizer), messages) == ["<|channel|>final<|message|>Bye.<|return|>"]


def test_a_template_that_cannot_take_the_arguments_says_so() -> None:
    with pytest.raises(DataError, match="refuses the conversation: can only concatenate str"):
        Renderer(real("deepseekv3")).example(CALLING[:2], None)


# What these families' own templates do. Those that keep every turn as it was can be learnt from
# whole conversations; the others change answers once more turns follow.
PREFIX_PRESERVING = {
    "qwen2_5": True,
    "llama3": True,
    "llama3_1": True,
    "gemma": True,
    "qwen3": False,
    "qwen3_training": True,
    "deepseek_r1_distill": False,
}


@pytest.mark.parametrize("name", PREFIX_PRESERVING)
def test_prefix_preservation_of_real_templates(name: str) -> None:
    problem = ChatTemplate(real(name)).prefix_problem
    assert (problem is None) == PREFIX_PRESERVING[name], problem


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (THINKING, r"'<think>\\n\\n</think>.* becomes 'reply-7f3a<\|im_end\|>.* once other turns"),
        (FORGETTING, r"'<think>\\nthought\\n</think>\\n\\nanswer.* becomes 'answer<\|im_end\|>"),
        ("{{ messages | length }}" + THINKING, r"'1<\|im_start\|>.* becomes '4<\|im_start\|>"),
    ],
)
def test_how_a_template_changes_earlier_turns(template: str, problem: str) -> None:
    found = ChatTemplate(with_template(template)).prefix_problem
    assert found is not None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(found)


def test_alpaca_text_has_nothing_to_preserve() -> None:
    assert Renderer(with_template(FORGETTING), "alpaca").prefix_problem is None
    assert Renderer(with_template(FORGETTING)).prefix_problem
    assert Renderer(tiny_tokenizer()).prefix_problem is None

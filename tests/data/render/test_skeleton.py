from __future__ import annotations

import random
from typing import Any

import pytest

from doratune.data.render.skeleton import Skeletons, only_writes_contents
from tests.data.render.templates import FORGETTING, THINKING
from tests.tiny import CHATML, tiny_tokenizer

# The shapes of the real ones, shortened.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start|>' + message['role'] + '<|end|>\n\n' + message['content'] | trim "
    "+ '<|eot|>' %}{% if loop.index0 == 0 %}{% set content = '<bos>' + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{{ messages[0].content ~ '\n\n' }}{% else %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start>' + role + '\n' + message['content'] | trim + '<end>\n' }}{% endfor %}"
    "{% if messages and messages|length > 1 %}{{ 'many' }}{% endif %}"
)
TOOLS = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for message in messages %}{% if message.role == 'user' or not message.tool_calls %}"
    "{{ message.role + message.content }}{% else %}{{ message.tool_calls | tojson }}{% endif %}"
    "{% endfor %}"
)
PLAIN = [
    CHATML,
    SMOLLM2,
    LLAMA3,
    GEMMA,
    TOOLS,
    "{% for m in messages %}{{ m.content | trim }}\n{% endfor %}",
]

EVERY = "{% for m in messages %}BODY{% endfor %}"
DEPENDENT = {
    "thinking": FORGETTING,
    "condition": EVERY.replace("BODY", "{% if m.content %}{{ m.content }}{% endif %}"),
    "part": EVERY.replace("BODY", "{{ m.content[1:] }}"),
    "method": EVERY.replace("BODY", "{{ m.content.strip() }}"),
    "filter": EVERY.replace("BODY", "{{ m.content | upper }}"),
    "trim of something else": EVERY.replace("BODY", "{{ m.content | trim('x') }}"),
    "trim of a sum": EVERY.replace("BODY", "{{ (m.content + '\n') | trim }}"),
    "trim of a name": EVERY.replace("BODY", "{% set c = m.content %}{{ (c) | trim }}"),
    "length by a name": EVERY.replace("BODY", "{% set c = m.content %}{{ c | length }}"),
    "comparison": EVERY.replace("BODY", "{{ m.content == 'x' }}"),
    "contained": EVERY.replace("BODY", "{{ m['content'] in 'abc' }}"),
    "get": EVERY.replace("BODY", "{{ m.get('content') | upper }}"),
    "items": EVERY.replace("BODY", "{% for k, v in m.items() %}{{ v | upper }}{% endfor %}"),
    "computed key": EVERY.replace("BODY", "{% set k = 'content' %}{{ m[k] | upper }}"),
    "whole message": EVERY.replace("BODY", "{{ m }}"),
    "json": "{{ messages | tojson }}",
    "mapped": "{{ messages | map(attribute='content') | join | upper }}",
    "or": "{% set x = messages or [] %}{{ x[0].content | upper }}",
    "namespace": "{% set ns = namespace(m=messages) %}{{ ns.m[0].content | upper }}",
    "list": "{% set x = [messages[0]] %}{{ x[0].content | upper }}",
    "macro": "{% macro f(x) %}{{ x | upper }}{% endmacro %}{{ f(messages[0].content) }}",
    "block set": "{% set x %}{{ messages[0].content }}{% endset %}{{ x | upper }}",
    "filter block": "{% filter upper %}{{ messages[0].content }}{% endfilter %}",
    "next message": EVERY.replace("BODY", "{{ loop.nextitem.content | upper }}"),
    "one name for both": (
        "{% set x = messages[0] %}{{ x.content }}{% set x = messages[0].content %}{{ x[0] }}"
    ),
    "product": EVERY.replace("BODY", "{{ m.content * 2 }}"),
    "its own mark": EVERY.replace("BODY", "{{ m.content }}\ue000"),
    "not Jinja": "{% for %}",
}  # fmt: skip

TALKS = ("u", "ua", "sua", "uaua", "suauau", "a")
ROLES = {"s": "system", "u": "user", "a": "assistant"}


def talks() -> list[list[dict[str, Any]]]:
    draw = random.Random(0)
    pieces = [" ", "\n", "\u2003", "x", "é", "{{ 7 }}", "<|im_end|>", "0", '"', "\\", "%", "\ue000"]
    return [
        [
            {"role": ROLES[role], "content": "".join(draw.choices(pieces, k=draw.randrange(6)))}
            for role in roles
        ]
        for roles in TALKS * 10
    ]


@pytest.mark.parametrize("template", [*PLAIN, THINKING], ids=range(len(PLAIN) + 1))
@pytest.mark.parametrize("begin", [False, True])
def test_filled_in_is_what_the_template_writes(template: str, begin: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    runs = 0

    def render(turns: list[dict[str, Any]], begin: bool) -> str:
        nonlocal runs
        runs += 1
        text: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=begin
        )
        return text

    skeletons = Skeletons(template, render)
    for turns in talks():
        assert skeletons.fill(turns, begin) == tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=begin
        )
    assert runs == len(TALKS), "once for each row of roles"


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_template_that_looks_into_contents_is_run(name: str) -> None:
    assert not only_writes_contents(DEPENDENT[name])


def test_turns_with_more_than_contents_are_for_the_template() -> None:
    skeletons = Skeletons(TOOLS, lambda turns, begin: "")
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "x"}]}
    assert skeletons.fill([call], False) is None

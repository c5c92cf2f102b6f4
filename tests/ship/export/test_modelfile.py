from __future__ import annotations

import re

import pytest
from transformers import PreTrainedTokenizerFast

from doratune.ship.export.modelfile import modelfile, ollama_template, read_turns
from tests.ship.export.tokenizers import byte_level, with_bos
from tests.tiny import CHATML, tiny_tokenizer

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|h|>' + message['role'] + '<|e|>\n\n' + "
    "message['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|h|>assistant<|e|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ raise_exception('no system') }}{% endif %}"
    "{% endfor %}"
)


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    found = tiny_tokenizer()
    found.chat_template = template
    return found


def go(template: str, messages: list[tuple[str, str]]) -> str:
    """Executes the little of Go's templates that is used."""
    loop, opening = template.split("{{ end }}{{ end }}")
    text = ""
    for role, content in messages:
        branch = re.search(
            rf'\{{\{{ (?:else )?if eq \.Role "{role}" \}}\}}(.*?)(?=\{{\{{ else|\Z)',
            loop,
            re.DOTALL,
        )
        assert branch is not None
        text += branch[1].replace("{{ .Content }}", content).replace('{{ "{{" }}', "{{")
    return text + opening.replace('{{ "{{" }}', "{{")


@pytest.mark.parametrize("template", [CHATML, SMOLLM2])
def test_the_template_writes_what_the_chat_template_writes(template: str) -> None:
    source = tokenizer(template)
    turns = read_turns(source)
    assert turns is not None
    said = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")]
    messages = [{"role": role, "content": text} for role, text in said]
    expected = source.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert go(ollama_template(turns), said) == expected


def test_the_systems_own_turn_becomes_a_system_line() -> None:
    text = modelfile(tokenizer(SMOLLM2), "m.gguf", None, ["<|im_end|>"])
    assert 'SYSTEM """You are helpful."""' in text
    named = modelfile(tokenizer(SMOLLM2), "m.gguf", "Name the clause.", ["<|im_end|>"])
    assert 'SYSTEM """Name the clause."""' in named
    assert "SYSTEM" not in modelfile(tokenizer(CHATML), "m.gguf", None, [])


def test_the_token_that_begins_a_text_is_ollamas() -> None:
    source = with_bos(byte_level("llama-bpe"))
    source.chat_template = LLAMA3
    turns = read_turns(source)
    assert turns is not None
    assert turns.around["system"] == ("<|h|>system<|e|>\n\n", "<|eot|>")
    assert turns.around["user"] == ("<|h|>user<|e|>\n\n", "<|eot|>")
    assert turns.opening == "<|h|>assistant<|e|>\n\n"


@pytest.mark.parametrize(
    "template",
    [MISTRAL, CHATML.replace("message['content']", "message['content'] * 2"),
     CHATML.replace("{{ '<|im_start|>'", "{{ loop.index | string + '<|im_start|>'")],
)  # fmt: skip
def test_a_template_that_does_more_is_left_to_ollama(template: str) -> None:
    source = tokenizer(template)
    assert read_turns(source) is None
    text = modelfile(source, "m.gguf", None, ["<|im_end|>"])
    assert "TEMPLATE" not in text
    assert "Ollama uses the one in the file" in text


def test_the_whole_file() -> None:
    assert modelfile(tokenizer(CHATML), "m.gguf", "Be brief.", ["<|im_end|>"]) == (
        'FROM ./m.gguf\nTEMPLATE """{{ range .Messages }}'
        '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        '{{ end }}{{ end }}<|im_start|>assistant\n"""\nSYSTEM """Be brief."""\n'
        'PARAMETER stop "<|im_end|>"\n'
    )


def test_a_given_template_and_braces() -> None:
    text = modelfile(tokenizer(CHATML), "m.gguf", None, [], template="### {{ .Prompt }}")
    assert 'TEMPLATE """### {{ .Prompt }}"""' in text
    source = tokenizer(CHATML.replace("<|im_start|>", "<{{"))
    turns = read_turns(source)
    assert turns is not None
    assert 'if eq .Role "user" }}<{{ "{{" }}user' in ollama_template(turns)

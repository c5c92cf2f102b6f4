from __future__ import annotations

import pytest
from tokenizers import AddedToken, processors

from doratune.data.render import Renderer
from doratune.data.render.spoken import ALPACA_PROMPT
from doratune.errors import ConfigError, DataError
from doratune.record.schemas import Message
from tests.data.render.templates import FORGETTING, THINKING
from tests.tiny import tiny_tokenizer

TURNS = {"s": "system", "u": "user", "a": "assistant"}


def talk(roles: str, *contents: str) -> list[Message]:
    return [
        Message(role=TURNS[role], content=content)  # type: ignore[arg-type]
        for role, content in zip(roles, contents, strict=True)
    ]


def learnt(renderer: Renderer, messages: list[Message]) -> list[str]:
    """The runs of learnt tokens, as text."""
    ids, labels = renderer.example(messages)
    assert len(ids) == len(labels)
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    runs: list[list[int]] = [[]]
    for label in labels:
        if label != -100:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [renderer.tokenizer.decode(run) for run in runs if run]


def test_spans_token_by_token() -> None:
    tokenizer = tiny_tokenizer()
    ids, labels = Renderer(tokenizer).example(talk("ua", "fox?", "dog."))
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens == [
        "<|im_start|>", "u", "ser", "Ċ", "f", "ox", "?", "<|im_end|>", "Ċ",
        "<|im_start|>", "a", "ss", "istant", "Ċ", "d", "og", ".", "<|im_end|>",
    ]  # fmt: skip
    assert labels == [-100] * 14 + ids[14:]


def test_every_assistant_turn_is_learnt_and_no_other() -> None:
    messages = talk("suaua", "Be brief.", "one", "first answer", "two", "second answer")
    renderer = Renderer(tiny_tokenizer())
    assert learnt(renderer, messages) == ["first answer<|im_end|>", "second answer<|im_end|>"]
    text = renderer.tokenizer.decode(renderer.example(messages).input_ids)
    whole = renderer.tokenizer.apply_chat_template(
        [message.model_dump(exclude_none=True) for message in messages], tokenize=False
    )
    assert whole == text + "\n"


@pytest.mark.parametrize("template", ["model", "alpaca"])
@pytest.mark.parametrize(
    "answer", ["dog.", "\n\nnew lines first", "  spaces ", "two<|im_end|>ends"]
)
def test_prompt_and_answer_make_the_example(template: str, answer: str) -> None:
    renderer = Renderer(tiny_tokenizer(), template)  # type: ignore[arg-type]
    messages = talk("ua", "fox?", answer)
    rendered = renderer.example(messages)
    prompt = renderer.prompt(messages[:-1])
    assert rendered.input_ids == prompt + renderer.answer(messages[:-1], answer)
    assert rendered.labels == [-100] * len(prompt) + rendered.input_ids[len(prompt) :]
    assert renderer.tokenizer.decode(rendered.input_ids).endswith(answer + "<|im_end|>")


def test_a_token_across_the_boundary_is_cut_there() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("\ndog", special=False)])
    whole = tokenizer("<|im_start|>assistant\ndog").input_ids
    assert tokenizer.convert_ids_to_tokens(whole)[-1] == "\ndog"
    renderer = Renderer(tokenizer)
    prompt = talk("u", "fox?")
    assert tokenizer.convert_ids_to_tokens(renderer.prompt(prompt))[-1] == "Ċ"
    assert tokenizer.decode(renderer.answer(prompt, "dog")) == "dog<|im_end|>"
    assert renderer.example([*prompt, *talk("a", "dog")]).input_ids == (
        renderer.prompt(prompt) + renderer.answer(prompt, "dog")
    )


def test_a_template_that_adds_to_the_last_answer_works() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKING
    renderer = Renderer(tokenizer)
    messages = talk("uaua", "one", " first ", "two", "second")
    assert learnt(renderer, messages) == [
        "first<|im_end|>",
        "<think>\n\n</think>\n\nsecond<|im_end|>",
    ]
    assert learnt(renderer, talk("ua", "q", " a"))[0].endswith("\n\na<|im_end|>")


def test_a_template_that_rewrites_the_prompt_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}" + THINKING
    with pytest.raises(DataError, match=r"turns before answer 1 differently.*'.*assistant\\n'"):
        Renderer(tokenizer).example(talk("ua", "q", "a"))


def test_a_template_that_refuses_says_why() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + THINKING
    )
    with pytest.raises(DataError, match="refuses the conversation: no system role"):
        Renderer(tokenizer).example(talk("sua", "s", "q", "a"))


def test_templates_that_cannot_be_used() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(
        ConfigError, match=r"ends an answer with '\\n', which holds no special token"
    ):
        Renderer(tokenizer).example(talk("ua", "q", "a"))
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"no chat template\. Use data\.template: alpaca"):
        assert Renderer(tokenizer).end_of_turn
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match=r"no eos_token .*data\.template is 'alpaca'"):
        assert Renderer(tokenizer, "alpaca").end_of_turn


def test_plain_text_needs_no_template() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    renderer = Renderer(tokenizer)
    rendered = renderer.example(talk("a", "The fox\n"))
    assert tokenizer.decode(rendered.input_ids) == "The fox\n<|im_end|>"
    assert rendered.labels == rendered.input_ids
    assert renderer.examples([(talk("a", "The fox\n"), None)]) == [rendered]
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no eos_token to end an answer with, which plain text"):
        renderer.example(talk("a", "The fox"))


def test_plain_text_begins_with_bos_where_the_tokenizer_adds_one() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    rendered = Renderer(tokenizer).example(talk("a", "The fox"))
    assert rendered.input_ids[0] == 0
    assert rendered.labels == [-100, *rendered.input_ids[1:]]
    assert Renderer(tokenizer).examples([(talk("a", "The fox"), None)]) == [rendered]


def test_turns_of_weight_0_are_not_learnt() -> None:
    messages = talk("uaua", "one", "first", "two", "second")
    messages[1].weight = 0
    renderer = Renderer(tiny_tokenizer())
    assert learnt(renderer, messages) == ["second<|im_end|>"]
    assert renderer.example(messages).input_ids == renderer.prompt(messages[:-1]) + (
        renderer.answer(messages[:-1], messages[-1])
    )
    messages[3].weight = 0
    with pytest.raises(DataError, match="None of the 4 turns is learnt"):
        renderer.example(messages)
    with pytest.raises(DataError, match="None of the 4 turns is learnt"):
        renderer.lengths([(messages, None)])
    assert renderer.lengths([]) == []


def test_an_answer_without_its_thoughts_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = FORGETTING
    renderer = Renderer(tokenizer)
    thought = "<think>hm</think>The dog."
    assert learnt(renderer, talk("ua", "q", thought)) == [
        "<think>\nhm\n</think>\n\nThe dog.<|im_end|>"
    ]
    with pytest.raises(
        DataError, match=r"leaves out part of answer 1, '<think>hm.*renders 'The dog\.<.*weight 0"
    ):
        renderer.example(talk("uaua", "one", thought, "two", thought))
    messages = talk("uaua", "one", thought, "two", "second")
    messages[1].weight = 0
    assert learnt(renderer, messages) == ["second<|im_end|>"]


def test_spans_do_not_run_into_the_next_turn_where_an_answer_was_shortened() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKING.replace("m.content | trim", "m.content | replace(' ', '')")
    messages = talk("uaua", "one", "a b c d e f g h i j k l m n", "two", "second")
    assert learnt(Renderer(tokenizer), messages)[0] == "abcdefghijklmn<|im_end|>"


def test_alpaca_is_the_papers_text() -> None:
    renderer = Renderer(tiny_tokenizer(), "alpaca")
    rendered = renderer.example(talk("ua", "Sort {these}.", "Done."))
    assert renderer.tokenizer.decode(rendered.input_ids) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request. \n\n### Instruction:\nSort {these}.\n\n### Response:\n"
        "Done.<|im_end|>"
    )
    assert learnt(renderer, talk("ua", "Sort.", "Done.")) == ["Done.<|im_end|>"]
    assert ALPACA_PROMPT.endswith("### Response:\n")
    with pytest.raises(DataError, match=r"has the turns system, user, assistant;.*one user turn"):
        renderer.example(talk("sua", "s", "q", "a"))


def test_alpaca_begins_with_bos_where_the_tokenizer_adds_one() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    assert Renderer(tokenizer, "alpaca").prompt(talk("u", "q"))[0] != tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    ids = Renderer(tokenizer, "alpaca").prompt(talk("u", "q"))
    assert ids[0] == tokenizer.bos_token_id == 0
    assert ids.count(0) == 1


def test_no_label_is_a_prefix_of_another() -> None:
    renderer = Renderer(tiny_tokenizer())
    prompt = talk("u", "q")
    answers = [renderer.answer(prompt, label) for label in ("cap", "capped", "cap ped", "no cap")]
    for one in answers:
        assert sum(other[: len(one)] == one for other in answers) == 1

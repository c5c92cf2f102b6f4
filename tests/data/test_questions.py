from __future__ import annotations

import json

from doratune.data import Renderer
from doratune.data.questions import make_questions, some_of
from doratune.record.schemas import Example, Message
from tests.tiny import CHATML, tiny_tokenizer


def example(text: str, answer: str) -> Example:
    messages = [Message(role="user", content=text), Message(role="assistant", content=answer)]
    return Example(id="0" * 16, messages=messages, place="t.jsonl:1")


def test_labels_are_rendered_as_each_prompt_wants_them() -> None:
    tokenizer = tiny_tokenizer()
    # A template whose answers look different after a long question.
    tokenizer.chat_template = CHATML.replace(
        "+ message['content']",
        "+ (' ' if message['role'] == 'assistant' and messages[0]['content'] | length > 5 else '')"
        " + message['content']",
    )
    renderer, labels = Renderer(tokenizer, "model"), ["capped", "uncapped"]
    examples = [example("a", "uncapped"), example("fees paid", "capped"), example("b", "capped")]
    questions = make_questions(renderer, examples, labels)
    texts = [[tokenizer.decode(ids) for ids in row] for row in questions.label_ids]
    assert texts == [
        ["capped<|im_end|>", "uncapped<|im_end|>"],
        [" capped<|im_end|>", " uncapped<|im_end|>"],
        ["capped<|im_end|>", "uncapped<|im_end|>"],
    ]
    assert questions.answers == [
        row[i] for row, i in zip(questions.label_ids, (1, 0, 0), strict=True)
    ]
    assert tokenizer.decode(questions.prompts[1]).endswith(
        "fees paid<|im_end|>\n<|im_start|>assistant\n"
    )


def test_open_questions_have_no_labels() -> None:
    questions = make_questions(Renderer(tiny_tokenizer()), [example("a", "fees")], None)
    assert (questions.references, questions.labels, questions.label_ids) == (["fees"], None, [])


def test_a_call_is_compared_as_the_template_writes_it() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ tools | tojson if tools else '' }}" + CHATML.replace(
        "+ message['content']",
        "+ message['content'] + (message['tool_calls'] | tojson if message['tool_calls'] else '')",
    )
    call = {"type": "function", "function": {"name": "fees", "arguments": {"year": 1}}}
    asked = example("a", "")
    asked.messages[1].tool_calls = [call]
    asked.tools = [{"name": "fees"}]
    questions = make_questions(Renderer(tokenizer), [asked, example("b", "none")], None)
    assert questions.references == [json.dumps([call]), "none"]
    assert tokenizer.decode(questions.answers[0]) == f"{json.dumps([call])}<|im_end|>"
    assert tokenizer.decode(questions.prompts[0]).startswith('[{"name": "fees"}]')


def test_some_examples_are_chosen_by_their_ids_and_stay_in_order() -> None:
    ids = ["c", "a", "d", "b", "a"]
    examples = [example(str(n), "x").model_copy(update={"id": id}) for n, id in enumerate(ids)]
    assert [e.id for e in some_of(examples, 3)] == ["a", "b", "a"]
    assert some_of(examples, 9) == examples
    assert some_of([], 3) == []

from __future__ import annotations

import io

from rich.console import Console
from rich.text import Text

from doratune.data.render import Renderer
from doratune.data.render.show import show
from doratune.record.schemas import Example, Message
from tests.tiny import tiny_tokenizer


def example(*contents: str, **fields: object) -> Example:
    roles = ["user", "assistant"] * len(contents)
    turns = [Message(role=r, content=c) for r, c in zip(roles, contents, strict=False)]  # type: ignore[arg-type]
    return Example(id="0123456789abcdef", messages=turns, place="a.jsonl:3", **fields)  # type: ignore[arg-type]


def shown(one: Example) -> Text:
    return show(one, Renderer(tiny_tokenizer()))


def styles(text: Text) -> dict[str, str]:
    return {text.plain[span.start : span.end]: str(span.style) for span in text.spans}


def test_the_exact_string_with_what_is_learnt() -> None:
    assert shown(example("fox?", "The dog.")).plain == (
        "0123456789abcdef a.jsonl:3\n"
        "── masked, 14 tokens\n"
        "<|im_start|>user\nfox?<|im_end|>\n<|im_start|>assistant\n"
        "\n"
        "── learnt, 4 tokens\n"
        "The dog.<|im_end|>"
        "\n"
        "── 4 of 18 tokens are learnt\n"
    )


def test_masked_is_dim_and_learnt_is_bright() -> None:
    found = styles(shown(example("fox?", "The dog.")))
    assert found["<|im_start|>user\nfox?<|im_end|>\n<|im_start|>assistant\n"] == "dim"
    assert found["The dog.<|im_end|>"] == "bold green"
    assert not shown(example("fox?", "The dog.")).style, "which would hold for all of it"


def test_without_a_terminal_the_lines_still_tell_them_apart() -> None:
    output = io.StringIO()
    Console(file=output, width=40).print(shown(example("fox?", "The dog.")), soft_wrap=True)
    lines = output.getvalue().splitlines()
    assert lines[1] == "── masked, 14 tokens"
    assert lines[lines.index("── learnt, 4 tokens") + 1] == "The dog.<|im_end|>"


def test_several_turns_and_unlearnt_ones() -> None:
    talk = example("one", "first", "two", "second")
    assert shown(talk).plain.count("── learnt") == 2
    talk.messages[1].weight = 0
    assert shown(talk).plain.count("── learnt") == 1
    assert "first<|im_end|>\n<|im_start|>user\ntwo" in shown(talk).plain


def test_plain_text_is_all_learnt() -> None:
    plain = Example(id="0", messages=[Message(role="assistant", content="é\n🙂")], place="a:1")
    assert shown(plain).plain.splitlines()[2:4] == ["é", "🙂<|im_end|>"]
    assert "masked" not in shown(plain).plain


def test_preference_shows_both_answers() -> None:
    pair = example("fox?", "The dog.", rejected=[Message(role="assistant", content="A cat.")])
    lines = shown(pair).plain.splitlines()
    assert lines.index("The dog.<|im_end|>") < lines.index("rejected, in place of the last turn")
    assert "A cat.<|im_end|>" in lines


def test_injected_control_tokens_are_named_and_terminals_not_obeyed() -> None:
    text = shown(example("Hi<|im_end|>\x1b[2J\r\x9b2J", "ok")).plain
    assert "The turns themselves spell out <|im_end|>.\n" in text
    assert "Hi<|im_end|>␛[2J␍<U+009B>2J<|im_end|>" in text
    assert not {"\x1b", "\r", "\x9b"} & set(text)
    assert "spell out" not in shown(example("Hi", "ok")).plain

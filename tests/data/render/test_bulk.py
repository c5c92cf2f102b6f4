from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doratune.data.render import Rendered, Renderer
from doratune.errors import DataError
from doratune.record.schemas import Message
from tests.data.render.tokenizer_kinds import TOKENIZERS

NASTY = (
    "\n", "\n\n", " ", "  ", "\t", "\r\n", "\u00a0", "\u2028", "\u200b", "▁", "a", "The fox", "12345",
    "é", "e\u0301", "日本", "🙂", "\U0001f468\u200d\U0001f469", "<|im_end|>", "<|im_start|>", "<|im",
    "_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "<filename>", "</s>", "<think>", "\n\ndog",
)  # fmt: skip

ASCII = st.text(st.characters(max_codepoint=127), max_size=8)
parts = st.one_of(st.sampled_from(NASTY), ASCII, ASCII, st.text(max_size=4))
contents = st.lists(parts, max_size=4).map("".join)


@st.composite
def talks(draw: st.DrawFn) -> list[Message]:
    if draw(st.integers(0, 5)) == 0:
        return [Message(role="assistant", content=draw(contents))]
    talk = [Message(role="system", content=draw(contents))] if draw(st.booleans()) else []
    rounds = draw(st.integers(1, 3))
    for number in range(rounds):
        weight = 0 if number < rounds - 1 and draw(st.booleans()) else None
        talk.append(Message(role="user", content=draw(contents)))
        talk.append(Message(role="assistant", content=draw(contents), weight=weight))
    return talk


def one_by_one(renderer: Renderer, talk: list[Message]) -> Rendered | str:
    try:
        return renderer.example(talk)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("template", ["model", "alpaca"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_many_at_once_are_what_each_is_alone(name: str, template: str) -> None:
    tokenizer = TOKENIZERS[name]()
    alone, bulk = Renderer(tokenizer, template), Renderer(tokenizer, template)  # type: ignore[arg-type]

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(st.lists(talks(), min_size=1, max_size=4))
    def check(batch: list[list[Message]]) -> None:
        expected = [one_by_one(alone, talk) for talk in batch]
        problems = [problem for problem in expected if isinstance(problem, str)]
        if problems:
            with pytest.raises(DataError) as refusal:
                bulk.examples([(talk, None) for talk in batch])
            assert str(refusal.value) in problems
            batch = [t for t, e in zip(batch, expected, strict=True) if not isinstance(e, str)]
        found = bulk.examples([(talk, None) for talk in batch])
        assert found == [rendered for rendered in expected if not isinstance(rendered, str)]

    check()

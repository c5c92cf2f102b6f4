"""A server against the trained model, by what it answers to golden prompts.

Each answer is read back by the trained model and by the bare base, both in float32: at every token,
by how many nats did the model prefer another one? Zero everywhere is its own greedy answer. Where two
tokens are nearly as likely, rounding decides; with u the unit roundoff of the server's arithmetic,
``margin`` allows 85 u + 0.02 nats: logits that are off by a standard deviation of 20 u, which is what
`logit_limits` allows (KL is half the variance), three deviations of a difference of two, and 0.02 for
a cache in fp16 (measured: 0.013 in llama.cpp, whose cache is so by default). ``logprob_difference``, a
mean over the tokens of an answer, allows 20 u + 0.02; a bf16 server was off by 0.03 to 0.07.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from doratune.base import load_tokenizer, resolve_base
from doratune.data import Renderer, read_examples
from doratune.errors import ConfigError, DataError, StorageError, VerificationError
from doratune.progress import console, track
from doratune.recipe.schema import Recipe
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, Example
from doratune.record.verification import ServedAnswer, ServedFile
from doratune.ship.verification.roundoff import Q8_0, ROUNDOFF
from doratune.ship.verification.served_client import Api, Server
from doratune.ship.verification.served_read import NUM_TOKENS, Prompt, read_answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = {**ROUNDOFF, "q8_0": Q8_0}
_PLAIN_TOKENS = 32
"""How much of a plain text is a prompt."""


def verify_served(
    run: RunFolder,
    recipe: Recipe,
    url: str,
    model: str | None,
    dtype: str,
    key_variable: str | None,
) -> None:
    """Asks a server the run's own test prompts; writes ``served.json``, also when it fails.

    Args:
        run: A trained run.
        recipe: Its recipe.
        url: Base of the API.
        model: Name of the model there; None for the only one.
        dtype: Precision in which the server computes: a key of `DTYPES`.
        key_variable: Environment variable with the key.

    Raises:
        VerificationError: It serves the bare base or another model, or one cannot tell.
        ConfigError: The server refuses, serves several models, or an option is wrong.
        DoratuneError: The server does not answer.
        AdapterError: The adapter is incomplete or belongs to another base.
        ModelError: The base cannot be had.
        StorageError: There is no adapter yet.
        DataError: The test split holds nothing to ask.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--served-dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    if not run.adapter.is_dir():
        raise StorageError(f"{run.adapter} does not exist. Run `doratune train` first.")
    run.served.unlink(missing_ok=True)
    server = Server(url, key_variable)
    name = model or server.only_model()
    base_path = resolve_base(recipe.model.source, recipe.model.revision)
    tokenizer = load_tokenizer(base_path)
    api, prompts, ends = _golden_prompts(run, recipe, tokenizer)
    if not prompts:
        raise DataError(
            f"{run.examples('test')} holds no prompt to ask a server: no example, or only some with "
            "tools. Add test examples without tools."
        )
    console.print(f"Asking {name} at {_public(url)} {len(prompts)} prompts ...")
    replies = [
        server.complete(name, api, prompt.asked, NUM_TOKENS)
        for prompt in track(prompts, "Asking the server", total=len(prompts))
    ]
    answers = read_answers(base_path, run, tokenizer, prompts, replies, ends)
    limits = {
        "margin": 85 * DTYPES[dtype] + 0.02,
        "logprob_difference": 20 * DTYPES[dtype] + 0.02,
    }
    verdict, sentence = judge(answers, limits, name)
    ServedFile(
        url=_public(url),
        model=name,
        api=api,
        dtype=dtype,
        answers=answers,
        thresholds=limits,
        verdict=verdict,
        sentence=sentence,
    ).write(run.served)
    if verdict != "same":
        raise VerificationError(f"{sentence} All answers are in {run.served}.")


def judge(answers: list[ServedAnswer], limits: dict[str, float], name: str) -> tuple[Any, str]:
    """The verdict of `ServedFile` and the sentence that says why."""
    own = [_explained(a.margin, a.logprob_difference, limits) for a in answers]
    base = [_explained(a.base_margin, a.base_logprob_difference, limits) for a in answers]
    equal = sum(a.text == a.expected for a in answers)
    count = f"{len(answers)} prompts"
    if all(own) and all(base):
        return "undecided", (
            f"{name} answers {count} as the trained model does, and the bare base answers them alike: "
            "which of the two is served cannot be told. Raise verify.num_prompts, or have the server "
            "tell log probabilities."
        )
    if all(own):
        rest, largest = len(answers) - equal, max(a.margin or 0 for a in answers)
        return "same", (
            f"{name} is the trained model: of {count}, {equal} answers are its own word for word"
            + (f" and {rest} part from it where two tokens are nearly as likely" if rest else "")
            + f" (by at most {largest:.2g} nats; {limits['margin']:.2g} allowed)."
        )
    if all(base):
        return "base", (
            f"{name} is the bare base model, without the adapter: all of {count} are answered as the "
            "base answers them. Engines go on with the base where an adapter fails to load; see "
            "what the server said when it started, and which model name has the adapter."
        )
    wrong = next(a for a, fine in zip(answers, own, strict=True) if not fine)
    why = []
    if wrong.margin is not None:
        why.append(f"it preferred its own token by {wrong.margin:.2g} nats; {limits['margin']:.2g} "
                   "allowed")  # fmt: skip
    if wrong.logprob_difference is not None:
        why.append(
            f"log probabilities differ by {wrong.logprob_difference:.2g} nats on average; "
            f"{limits['logprob_difference']:.2g} allowed"
        )
    return "other", (
        f"{name} is another model: {own.count(False)} of {count} are answered otherwise than rounding "
        f"explains, such as {wrong.text[:60]!r} where the trained model says {wrong.expected[:60]!r} "
        f"({'; '.join(why) or 'no token to compare'}). {sum(base)} are the bare base's answers. Compare "
        "chat template, sampling defaults (penalties) and weights."
    )


def _explained(margin: float | None, difference: float | None, limits: dict[str, float]) -> bool:
    likely = difference is None or difference <= limits["logprob_difference"]
    return margin is not None and margin <= limits["margin"] and likely


def _golden_prompts(
    run: RunFolder, recipe: Recipe, tokenizer: PreTrainedTokenizerBase
) -> tuple[Api, list[Prompt], set[int]]:
    """How to ask, what, and the tokens that end an answer."""
    renderer = Renderer(tokenizer, recipe.data.template)
    examples = read_examples(run, "test")[: recipe.verify.num_prompts]
    plain = run.data.exists() and DataFile.read(run.data).format == "text"
    ends = {tokenizer.eos_token_id}
    if plain:
        return "completions", [_plain_prompt(e, tokenizer) for e in examples], ends
    ends |= {tokenizer.convert_tokens_to_ids(renderer.end_of_turn)}
    if recipe.data.template == "alpaca":
        prompts = [_text_prompt(renderer.prompt(e.prompt, e.tools), tokenizer) for e in examples]
        return "completions", prompts, ends
    prompts = [
        Prompt(
            e.prompt[-1].content,
            [message.model_dump(exclude_none=True, exclude={"weight"}) for message in e.prompt],
            renderer.prompt(e.prompt, e.tools),
        )
        for e in examples
        if not e.tools
    ]
    return "chat/completions", prompts, ends


def _plain_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    ids = tokenizer(example.answer, add_special_tokens=False).input_ids
    return _text_prompt(ids[: min(_PLAIN_TOKENS, max(1, len(ids) // 2))], tokenizer)


def _text_prompt(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Prompt:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    # The server's tokenizer adds the first special token itself.
    if tokenizer.bos_token and tokenizer("a").input_ids[0] == tokenizer.bos_token_id:
        text = text.removeprefix(tokenizer.bos_token)
    return Prompt(text[-200:], text, tokenizer(text).input_ids)


def _public(url: str) -> str:
    """The address without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))

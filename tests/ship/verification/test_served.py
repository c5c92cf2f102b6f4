"""Servers told apart by their answers: the trained model, the bare base, another model, near ties."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from doratune import endpoint
from doratune.adapter.tuned import load_tuned
from doratune.base import load_base, load_tokenizer
from doratune.errors import ConfigError, DataError, DoratuneError, StorageError, VerificationError
from doratune.record.files import write_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Example, Message
from doratune.record.verification import ServedAnswer, ServedFile
from doratune.ship.export.in_llama import greedy
from doratune.ship.verification.served import judge, verify_served
from doratune.ship.verification.served_client import Reply
from doratune.ship.verification.served_read import Prompt, _answer_ids, _Own
from tests.ship.export.runs import recipe_for, trained_run, write_figures
from tests.ship.verification.served_server import ModelServer, serving
from tests.ship.verification.speaking import chat_ids, speaking_adapter, speaking_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking_base(tmp_path_factory.mktemp("served") / "base")


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking_adapter(base, tmp_path_factory.mktemp("served") / "adapter")


@pytest.fixture
def run(adapter: Path, tmp_path: Path) -> RunFolder:
    return trained_run(tmp_path / "run", adapter)


@pytest.fixture(scope="session")
def merged(base: Path, adapter: Path) -> Any:
    """The trained model as PEFT merges it."""
    return load_tuned(base, adapter, "float32").merge_and_unload()


def ask(
    run: RunFolder, base: Path, server: ModelServer, dtype: str = "float32", **sections: Any
) -> ServedFile:
    verify_served(run, recipe_for(base, **sections), server.url, None, dtype, None)
    return ServedFile.read(run.served)


@pytest.mark.parametrize("logprobs", [True, False, "refused"])
def test_the_trained_model_is_recognised(
    base: Path, run: RunFolder, merged: Any, logprobs: bool | str
) -> None:
    with serving(merged, load_tokenizer(base), logprobs) as server:
        file = ask(run, base, server)
    assert file.verdict == "same"
    assert file.sentence.startswith(
        "tiny is the trained model: of 2 prompts, 2 answers are its own word for word (by at most 0 "
    )
    assert (file.url, file.model, file.api) == (server.url, "tiny", "chat/completions")
    assert len(file.answers) == 2
    for answer in file.answers:
        assert answer.text == answer.expected != answer.base
        assert (answer.departs_at, answer.margin) == (None, 0)
        assert answer.base_margin > 0.1
        if logprobs is True:
            assert answer.logprob_difference < 1e-4 < answer.base_logprob_difference
        else:
            assert answer.logprob_difference is None
    body = server.requests[-1]
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 32, False)
    assert body["messages"] == [{"role": "user", "content": "Is clause 2 capped?"}]
    assert body["path"] == "/v1/chat/completions"
    assert len(server.requests) == (3 if logprobs == "refused" else 2)


def test_the_bare_base_is_named(base: Path, run: RunFolder) -> None:
    """As llama.cpp serves it where an adapter fails to load."""
    with (
        serving(load_base(base, "float32"), load_tokenizer(base)) as server,
        pytest.raises(
            VerificationError, match=r"tiny is the bare base model, without the adapter: all of 2"
        ),
    ):
        ask(run, base, server, "bfloat16")
    file = ServedFile.read(run.served)
    assert file.verdict == "base"
    assert all(a.text == a.base != a.expected for a in file.answers)
    tokenizer, tuned = load_tokenizer(base), load_tuned(base, run.adapter, "float32")
    for number, answer in enumerate(file.answers, 1):
        ids = chat_ids(tokenizer, f"Is clause {number} capped?")
        found = greedy(load_base(base, "float32"), ids, 32)
        found = found[: found.index(tokenizer.eos_token_id) + 1]
        with torch.no_grad():
            log_p = tuned(torch.tensor([ids + found])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        margins = log_p.max(-1).values - log_p.gather(1, torch.tensor(found)[:, None])[:, 0]
        assert answer.margin == pytest.approx(margins.max().item(), rel=1e-4)
        assert answer.departs_at == int((margins > 1e-6).nonzero()[0])


def test_a_lost_magnitude_is_another_model(base: Path, run: RunFolder) -> None:
    model = load_tuned(base, run.adapter, "float32")
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if hasattr(module, "lora_variant"):
            module.lora_variant.clear()
            module.use_dora["default"] = False
    with (
        serving(plain, load_tokenizer(base)) as server,
        pytest.raises(
            VerificationError, match=r"tiny is another model: \d of 2 prompts are answered"
        ),
    ):
        ask(run, base, server)
    assert ServedFile.read(run.served).verdict == "other"


def test_logprobs_tell_where_words_do_not(base: Path, run: RunFolder, merged: Any) -> None:
    """The same words from a model whose probabilities are others."""
    sharp = copy.deepcopy(merged)
    sharp.lm_head.weight = torch.nn.Parameter(sharp.lm_head.weight * 1.5)  # not the embedding
    with serving(sharp, load_tokenizer(base), False) as server:
        assert ask(run, base, server).verdict == "same"
    with (
        serving(sharp, load_tokenizer(base)) as server,
        pytest.raises(VerificationError, match="is another model"),
    ):
        ask(run, base, server)


def test_a_near_tie_is_told_from_another_model(base: Path, run: RunFolder, merged: Any) -> None:
    """The server's second best token is taken where it is nearly as likely as the best."""

    class Turned(torch.nn.Module):
        def __init__(self, gap: float) -> None:
            super().__init__()
            self.gap = gap

        def forward(self, ids: torch.Tensor) -> Any:
            output = merged(ids)
            if ids.shape[1] == self.at:
                best, second = output.logits[0, -1].topk(2).indices
                output.logits[0, -1, second] = output.logits[0, -1, best] + self.gap
            return output

    tokenizer = load_tokenizer(base)
    ids = chat_ids(tokenizer, "Is clause 1 capped?")
    model = Turned(1e-3)
    model.at = len(ids)
    with torch.no_grad():
        first, second = merged(torch.tensor([ids])).logits[0, -1].topk(2).values.tolist()
    assert first - second > 0.02
    with serving(model, tokenizer, False) as server, pytest.raises(VerificationError) as caught:
        ask(run, base, server)
    file = ServedFile.read(run.served)
    assert (file.verdict, file.answers[0].departs_at) == ("other", 0)
    margin = file.answers[0].margin
    assert margin > 0.999 * (first - second)
    assert f"preferred its own token by {margin:.2g} nats; 0.02 allowed" in str(caught.value)
    answers = [a.model_copy(update={"base_margin": 9.0}) for a in file.answers]
    margin = max(answer.margin for answer in answers)
    loose = {"margin": margin * 1.01, "logprob_difference": 1.0}
    verdict, sentence = judge(answers, loose, "tiny")
    assert verdict == "same"
    assert re.search(r"and [12] part from it where two tokens are nearly as likely", sentence)


def test_models_that_answer_alike_are_not_told_apart() -> None:
    answer = ServedAnswer(
        prompt="", text="a", expected="a", base="a", num_tokens=1, departs_at=None, margin=0.0,
        base_margin=0.01,
    )  # fmt: skip
    verdict, sentence = judge([answer], {"margin": 0.02, "logprob_difference": 0.02}, "m")
    assert verdict == "undecided"
    assert "which of the two is served cannot be told. Raise verify.num_prompts" in sentence


@pytest.mark.parametrize("template", ["alpaca", "plain"])
def test_text_is_completed(base: Path, run: RunFolder, merged: Any, template: str) -> None:
    recipe: dict[str, Any] = {"data": {"template": "alpaca"}}
    if template == "plain":
        recipe = {}
        write_figures(run, recipe_for(base))
        run.data.write_text(run.data.read_text().replace('"classification"', '"text"'))
        example = Example(
            id="0" * 16,
            messages=[Message(role="assistant", content="Either party may end this. " * 9)],
            place="t.txt:1",
        )
        write_jsonl(run.examples("test"), [example.model_dump()])
    with serving(merged, load_tokenizer(base)) as server:
        file = ask(run, base, server, **recipe)
    assert (file.verdict, file.api) == ("same", "completions")
    begins = "Either party" if template == "plain" else "Below is an instruction"
    assert server.requests[0]["prompt"].startswith(begins)
    assert all(a.logprob_difference < 1e-4 for a in file.answers)


def test_a_byte_that_is_no_character_ends_the_comparison(base: Path, run: RunFolder) -> None:
    """transformers writes a sign for it, llama.cpp leaves it out."""
    tokenizer = load_tokenizer(base)
    own = _Own(
        "The limit \ufffd\ufffd of", [*tokenizer("The limit").input_ids, 200, 201, 202], False
    )
    for text in ("The limit \ufffd\ufffd of it", "The limit  of it"):
        reply = Reply(text, False, None)
        prompt = Prompt("", "", [5])
        ids, whole = _answer_ids(None, tokenizer, prompt, reply, {1}, (own,))
        assert (ids, whole) == (tokenizer("The limit").input_ids, False)
    other = Reply("A limit", False, None)
    ids, whole = _answer_ids(None, tokenizer, prompt, other, {1}, (own,))
    assert (ids, whole) == (tokenizer("A limit").input_ids, True)


def test_the_model_and_the_key_that_were_named(
    base: Path, run: RunFolder, merged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "secret")
    with serving(merged, load_tokenizer(base), names=("base", "tuned")) as server:
        with pytest.raises(ConfigError, match=r"serves 2 models \(base, tuned\). Name the one to"):
            ask(run, base, server)
        url = server.url.replace("127", "user:word@127") + "/?token=1"
        verify_served(run, recipe_for(base), server.url, "tuned", "float32", "SERVER_KEY")
        assert url not in run.served.read_text()
    assert server.requests[-1]["model"] == "tuned"
    assert server.requests[-1]["headers"]["Authorization"] == "Bearer secret"
    assert "secret" not in run.served.read_text()


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        (404, ConfigError, r"/v1/chat/completions answers with status 404: '404'. Check --served,"),
        (503, DoratuneError, r"status 503.*did so several times"),
        ("<html>", DoratuneError, r"answers with '<html>', which is no JSON"),
        ('{"error": 1}', DoratuneError, r"\{'error': 1\}\", which has no choices with a text"),
    ],
)
def test_a_server_that_does_not_work(
    base: Path,
    run: RunFolder,
    merged: Any,
    monkeypatch: pytest.MonkeyPatch,
    fault: int | str,
    error: type[DoratuneError],
    match: str,
) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.005)
    run.served.write_text("{}")
    with (
        serving(merged, load_tokenizer(base), fault=fault) as server,
        pytest.raises(error, match=match),
    ):
        ask(run, base, server)
    assert not run.served.exists()  # an earlier one spoke of another server


def test_what_can_be_wrong(base: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.005)
    recipe = recipe_for(base)
    with pytest.raises(
        ConfigError, match=r"--served-dtype is 'int4'; expected one of float32, bfl"
    ):
        verify_served(run, recipe, "http://localhost:1/v1", "m", "int4", None)
    with pytest.raises(
        ConfigError, match="variable NO_SUCH_KEY, which --served-key names, is not set"
    ):
        verify_served(run, recipe, "http://localhost:1/v1", "m", "float32", "NO_SUCH_KEY")
    with pytest.raises(ConfigError, match="--served is 'localhost:1', which is no web address"):
        verify_served(run, recipe, "localhost:1", "m", "float32", None)
    with pytest.raises(
        DoratuneError, match=r"127.0.0.1:1/v1/chat/completions does not answer: .*refused"
    ):
        verify_served(run, recipe, "http://127.0.0.1:1/v1", "m", "float32", None)
    run.examples("test").write_text("")
    with pytest.raises(DataError, match="holds no prompt to ask a server"):
        verify_served(run, recipe, "http://127.0.0.1:1/v1", "m", "float32", None)
    run.adapter.rename(run.path / "elsewhere")
    with pytest.raises(StorageError, match=re.escape("Run `doratune train` first")):
        verify_served(run, recipe, "http://127.0.0.1:1/v1", "m", "float32", None)

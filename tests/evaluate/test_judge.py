from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from scipy.stats import binomtest

from doratune import endpoint
from doratune.errors import ConfigError, DoratuneError, StorageError
from doratune.evaluate import judge_client
from doratune.evaluate.judge import judge_completions
from doratune.recipe.evaluation import JudgeSection
from doratune.record.completions import JudgeFile, Judgement
from doratune.record.files import write_jsonl
from doratune.record.review import ReviewItem, completions_review
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Message, RecordFile
from tests.evaluate.judge_server import SLOW_SECONDS, JudgeServer, running

KEY = "MY_JUDGE_KEY"
ANSWERS = [("good", "bad")] * 5 + [("bad", "good")] * 2 + [("even", "even")] + [("x", "y")]
"""Tuned and base: five won, two lost, two ties of which one is of equal answers."""


def fair(first: str, second: str) -> str:
    if {first, second} == {"x", "y"}:
        return "Neither. [[tie]]"
    return f"Is it [[tie]], [[A]] or [[B]]? {first} is {'[[a]]' if first == 'good' else '[[B]]'}"


def biased(first: str, second: str) -> str:
    return "I always like what I read first. [[A]]"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.005)
    monkeypatch.setattr(judge_client, "TIMEOUT_SECONDS", SLOW_SECONDS / 4)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    items = [
        ReviewItem(
            id=str(number),
            split="test",
            place=f"t.jsonl:{number}",
            messages=[
                Message(role="system", content="Be brief."),
                Message(role="user", content=f"question {number}"),
                Message(role="assistant", content=tuned),
            ],
            beside={"reference": "right", "base model": base},
        )
        for number, (tuned, base) in enumerate(ANSWERS)
    ]
    edge = items[0].model_copy(update={"id": "edge", "split": None, "place": "edge case: one"})
    write_jsonl(completions_review(run).items, [item.model_dump() for item in [*items, edge]])
    RecordFile(name="run", recipe_digest="", seed=0).write(run.record)
    return run


def section(server: JudgeServer, **settings: object) -> JudgeSection:
    values = {"url": server.url, "model": "wise", "api_key_variable": None, **settings}
    return JudgeSection.model_validate(values)


def figures(run: RunFolder) -> JudgeFile:
    return JudgeFile.read(run.completions / "judge.json")


def judgements(run: RunFolder) -> list[Judgement]:
    return Judgement.read_lines(run.completions / "judgements.jsonl")


def test_each_pair_is_asked_in_both_orders(run: RunFolder) -> None:
    with running(fair) as server:
        assert judge_completions(run, section(server, criteria="Which is {good}?"), seed=0)
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert len(asked) == 2 * 8, "neither equal answers nor edge cases"
    system = server.requests[0]["messages"][0]["content"]
    assert "Which is {good}?" in system
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}
    assert {(r["model"], r["temperature"]) for r in server.requests} == {("wise", 0.0)}
    for number in (0, 6):
        pair = [text for text in asked if f"question {number}\n" in text]
        assert len(pair) == 2
        assert all("system: Be brief." in text for text in pair)
        assert all("<reference answer>\nright\n" in text for text in pair)
        assert {re.findall(r"<answer [AB]>\n(\w+)", text)[0] for text in pair} == {"good", "bad"}
    file = figures(run)
    assert (file.num_pairs, file.num_identical, file.num_unreadable) == (9, 1, 0)
    assert [f.value for f in (file.wins, file.ties, file.losses)] == [5 / 9, 2 / 9, 2 / 9]
    assert file.win_rate.value == pytest.approx((5 + 2 / 2) / 9)
    assert file.win_rate.low < file.win_rate.value < file.win_rate.high
    wilson = binomtest(5, 9).proportion_ci(method="wilson")
    assert (file.wins.low, file.wins.high) == (wilson.low, wilson.high)
    assert file.p_value == pytest.approx(2 * sum([21, 7, 1]) / 2**7), "5 or more of 7, two-sided"
    assert file.flipped is not None
    assert (file.flipped.value, file.flipped.n) == (0, 8)
    assert file.first_preferred is not None
    assert (file.first_preferred.value, file.first_preferred.n) == (0.5, 14)


def test_a_judge_that_goes_by_the_order_wins_nothing_for_anybody(run: RunFolder) -> None:
    with running(biased) as server:
        judge_completions(run, section(server), seed=0)
    file = figures(run)
    assert (file.wins.value, file.ties.value, file.losses.value) == (0, 1, 0)
    assert file.flipped is not None
    assert file.first_preferred is not None
    assert (file.flipped.value, file.first_preferred.value) == (1, 1)
    assert (file.win_rate.value, file.p_value) == (0.5, 1)


def test_a_tie_in_one_order_is_no_win(run: RunFolder) -> None:
    with running(lambda first, _: "[[A]]" if first == "good" else "[[tie]]") as server:
        judge_completions(run, section(server), seed=0)
    file = figures(run)
    assert (file.wins.value, file.ties.value) == (0, 1)
    assert file.flipped is not None
    assert file.flipped.value == 7 / 8


def test_busy_broken_and_slow_servers_are_asked_again(run: RunFolder) -> None:
    faults = [429, None, 500, 503, None, "slow", "hang up", None, 429, 429]
    with running(fair, faults) as server:
        judge_completions(run, section(server), seed=0)
    assert len(server.requests) == 16 + 7
    assert figures(run).wins.value == 5 / 9


def test_replies_without_a_verdict_are_counted_and_listed(run: RunFolder) -> None:
    with running(fair, ["no JSON", None, "no choices", None]) as server:
        judge_completions(run, section(server), seed=0)
    file = figures(run)
    assert (file.num_unreadable, file.num_pairs) == (2, 7)
    assert file.unreadable == [
        "<html>nothing here</html>",
        '{"error": {"message": "fault no choices"}}',
    ]
    assert [line.preferred for line in judgements(run)].count(None) == 2


def test_a_judge_that_never_gives_a_verdict(run: RunFolder) -> None:
    items = completions_review(run).read_items()
    different = [item.model_dump() for item in items if item.id != "7"]
    write_jsonl(completions_review(run).items, different)
    with running(lambda *_: "Both are lovely.") as server:
        with pytest.raises(DoratuneError, match=r"16 of 16 replies of wise .* 'Both are lovely\.'"):
            judge_completions(run, section(server), seed=0)
        server.judge = fair
        assert judge_completions(run, section(server), seed=0), "and they are asked again"
    assert figures(run).num_pairs == 8


def test_what_was_judged_before_a_failure_is_not_asked_again(run: RunFolder) -> None:
    with running(fair, [None] * 5 + [503] * 6) as server:
        with pytest.raises(DoratuneError, match=r"status 503: .*fault 503.* did so several times"):
            judge_completions(run, section(server), seed=0)
        assert len(judgements(run)) == 5
        assert not (run.completions / "judge.json").exists()
        with (run.completions / "judgements.jsonl").open("a") as file:
            file.write('{"id": "cut sho')
        server.requests.clear()
        assert judge_completions(run, section(server), seed=0)
        assert len(server.requests) == 11
        assert not judge_completions(run, section(server), seed=0), "up to date"
        server.requests.clear()
        assert judge_completions(run, section(server, criteria="Which is shorter?"), seed=0)
        assert len(server.requests) == 16, "another question"
    assert figures(run).wins.value == 5 / 9


def test_what_is_sent_where_is_said_before(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(fair) as server:
        judge_completions(run, section(server), seed=0)
    said = capsys.readouterr().err
    assert f"Judge: 16 calls of wise at {server.url}. 8 prompts of the test data with" in said
    assert "both models' answers go to a server on this machine." in said


@pytest.mark.parametrize(
    ("url", "fate"),
    [
        ("https://judge.invalid/v1", "leave this machine for judge.invalid."),
        ("http://judge.invalid/v1", "leave this machine for judge.invalid, unencrypted."),
    ],
)
def test_data_that_leaves_the_machine_is_announced(
    url: str, fate: str, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = JudgeSection(url=url, model="wise", api_key_variable=None)
    with pytest.raises(DoratuneError, match=r"The judge at .*judge\.invalid.* does not answer: "):
        judge_completions(run, judge, seed=0)
    assert f"both models' answers {fate}" in capsys.readouterr().err


def test_the_key_is_sent_and_written_nowhere(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(fair) as server:
        judge = section(server, api_key_variable=KEY)
        with pytest.raises(ConfigError, match=rf"environment variable {KEY}, .* is not set"):
            judge_completions(run, judge, seed=0)
        assert not server.requests
        monkeypatch.setenv(KEY, "very-secret\n")
        judge_completions(run, judge, seed=0)
    assert {r["headers"]["Authorization"] for r in server.requests} == {"Bearer very-secret"}
    written = [path.read_text() for path in run.path.rglob("*") if path.is_file()]
    assert not any("very-secret" in text for text in [*written, *capfd.readouterr()])


def test_no_other_key_is_sent(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin ada\npassword secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with running(fair) as server:
        judge_completions(run, section(server), seed=0)
    assert {r["headers"]["Authorization"] for r in server.requests} == {None}


@pytest.mark.parametrize("status", [401, 404, 400, 307])
def test_a_server_that_refuses(status: int, run: RunFolder) -> None:
    with running(fair, [status]) as server:
        with pytest.raises(ConfigError, match=rf"status {status}: .*Check url, model and temper"):
            judge_completions(run, section(server), seed=0)
        assert len(server.requests) == 1, "nothing is sent again, or to another place"


def test_a_server_that_is_not_there(run: RunFolder) -> None:
    with running(fair) as server:
        pass
    with pytest.raises(
        DoratuneError, match=r"does not answer: .*Connection refused\. Is it running"
    ):
        judge_completions(run, section(server), seed=0)


@pytest.mark.parametrize("url", ["judge", "ftp://judge", "http://"])
def test_an_address_that_is_none(url: str, run: RunFolder) -> None:
    judge = JudgeSection(url=url, model="wise", api_key_variable=None)
    with pytest.raises(ConfigError, match=rf"judge\.url is '{re.escape(url)}', which is no web"):
        judge_completions(run, judge, seed=0)


def test_a_model_with_a_temperature_of_its_own(run: RunFolder) -> None:
    with running(fair) as server:
        judge_completions(run, section(server, temperature=None), seed=0)
    assert all("temperature" not in request for request in server.requests)


def test_only_edge_cases(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    files = completions_review(run)
    write_jsonl(files.items, [i.model_dump() for i in files.read_items() if i.split is None])
    judge = JudgeSection(url="http://judge.invalid", model="wise")
    assert not judge_completions(run, judge, seed=0)
    assert "left out: there are no answers to test prompts" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(run: RunFolder) -> None:
    (run.completions / "judgements.jsonl").symlink_to(os.devnull + "/nowhere")
    with running(fair) as server, pytest.raises(StorageError, match="Nothing could be added to"):
        judge_completions(run, section(server), seed=0)
    assert len(server.requests) == 1, "no money is spent on what cannot be kept"

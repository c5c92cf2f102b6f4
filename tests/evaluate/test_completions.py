from __future__ import annotations

import re
import resource
import signal
from pathlib import Path

import pytest
from peft import PeftModel

from doratune.base import load_base, load_tokenizer
from doratune.data import Renderer
from doratune.errors import AdapterError, StorageError
from doratune.evaluate.completions import write_completions
from doratune.record.completions import JudgeFile
from doratune.record.review import ReviewItem, completions_review
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import Message, RecordFile
from tests.evaluate.judge_server import running
from tests.evaluate.small_run import (
    conversations,
    small_recipe,
    small_run,
    texts,
    write_data,
)
from tests.evaluate.test_generate import plain_greedy

FEW = {"completions": {"num_prompts": 5, "max_new_tokens": 6}}


@pytest.fixture
def run(tmp_path: Path, tiny_base: Path) -> RunFolder:
    return small_run(tmp_path / "run", tiny_base)


def items(run: RunFolder) -> list[ReviewItem]:
    return completions_review(run).read_items()


def page(run: RunFolder) -> str:
    return (run.completions / "completions.md").read_text()


def test_both_models_answer_the_same_prompts(run: RunFolder, tiny_base: Path) -> None:
    """The independent truth: plain full passes of the base, and of PEFT's own DoRA forward."""
    write_data(run, conversations(9))
    assert write_completions(run, small_recipe(tiny_base, **FEW))
    tokenizer = load_tokenizer(tiny_base)
    renderer = Renderer(tokenizer)
    base = load_base(tiny_base)
    tuned = PeftModel.from_pretrained(load_base(tiny_base), run.adapter).eval()
    assert len(items(run)) == 5
    for item in items(run):
        ids = renderer.prompt(item.messages[:-1])
        said = [
            tokenizer.decode(plain_greedy(model, ids, stop=tokenizer.eos_token_id, max_new=6))
            for model in (base, tuned)
        ]
        assert [item.beside["base model"], item.messages[-1].content] == said
        assert said[0] != said[1]


def test_thirty_prompts_of_which_twelve_are_edge_cases(run: RunFolder, tiny_base: Path) -> None:
    examples = conversations(60, labelled=True)
    for example in examples:
        example.messages.insert(0, Message(role="system", content="Name the kind."))
    write_data(run, examples)
    assert write_completions(run, small_recipe(tiny_base, completions={"max_new_tokens": 2}))
    found = items(run)
    test, edge = found[:18], found[18:]
    by_place = {example.place: example for example in examples}
    for item in test:
        example = by_place[item.place]
        assert (item.split, item.label) == ("test", example.label)
        assert item.messages[:-1] == example.prompt
        assert item.beside["reference"] == example.answer
    assert [item.label for item in test].count("capped") == 6, "stratified"
    assert len({item.id for item in found}) == len(found) == 30
    places = [item.place for item in edge]
    assert all(place.startswith("edge case: ") for place in places)
    assert {(item.split, item.label, "reference" in item.beside) for item in edge} == {
        (None, None, False)
    }
    assert {item.messages[0].content for item in edge} == {"Name the kind."}
    injection = edge[places.index("edge case: prompt injection")].messages[1].content
    assert injection.startswith(f"{test[0].messages[1].content}\n\nIgnore everything above")
    control = edge[places.index("edge case: control tokens as words")].messages[1].content
    assert "shows <|im_end|> at the end" in control
    long = edge[places.index("edge case: very long input")]
    renderer = Renderer(load_tokenizer(tiny_base))
    # Twice max_length, which is 64, but for the last repetition.
    assert 100 < len(renderer.prompt(long.messages[:-1])) < 160


def test_a_very_long_prompt_fits_the_model(run: RunFolder, tiny_base: Path) -> None:
    write_data(run, conversations(9))
    recipe = small_recipe(
        tiny_base,
        data={"max_length": 4096},
        completions={"max_new_tokens": 3},
    )
    write_completions(run, recipe)
    renderer = Renderer(load_tokenizer(tiny_base))
    prompts = {item.place: renderer.prompt(item.messages[:-1]) for item in items(run)}
    longest = max(prompts, key=lambda place: len(prompts[place]))
    assert longest == "edge case: very long input"
    assert 400 < len(prompts[longest]) <= 512 - 3
    said = next(item.beside["base model"] for item in items(run) if item.place == longest)
    stop = renderer.tokenizer.eos_token_id
    expected = plain_greedy(load_base(tiny_base), prompts[longest], stop=stop, max_new=3)
    assert said == renderer.tokenizer.decode(expected) != ""


def test_the_page_shows_everything_and_nothing_breaks_out_of_it(
    run: RunFolder, tiny_base: Path
) -> None:
    examples = conversations(2)
    evil = "```\n# not a heading\n````\n\x1b[2J <b>|"
    examples[0].messages[0].content = evil
    write_data(run, examples)
    recipe = small_recipe(tiny_base, completions={"num_prompts": 4, "max_new_tokens": 3})
    write_completions(run, recipe)
    text = page(run)
    assert "2 test prompts, chosen by hash, and 1 edge cases." in text
    assert f"`doratune review completions {run.path}`" in text
    assert "`````text\n```\n# not a heading\n````\n␛[2J <b>|\n`````" in text
    for item in items(run):
        block = f"**tuned model**\n\n```text\n{item.messages[-1].content}\n```"
        assert block in text or "`" in item.messages[-1].content
    sections = re.findall(r"^## (\d+)\. (.*)$", text, re.MULTILINE)
    assert [number for number, _ in sections] == ["1", "2", "3"]
    assert sections[2][1] == "edge case: prompt injection"
    overview = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in overview)


def test_completions_are_made_again_only_when_something_changed(
    run: RunFolder, tiny_base: Path
) -> None:
    write_data(run, conversations(9))
    recipe = small_recipe(tiny_base, **FEW)
    assert write_completions(run, recipe)
    first = completions_review(run).items.read_bytes()
    ids = {item.id for item in items(run)}
    completions_review(run).verdicts.write_text("")
    assert not write_completions(run, recipe), "verdicts are no change"
    completions_review(run).items.unlink()
    assert write_completions(run, recipe)
    assert completions_review(run).items.read_bytes() == first
    longer = small_recipe(tiny_base, completions={"num_prompts": 5, "max_new_tokens": 7})
    assert write_completions(run, longer)
    assert not ids & {item.id for item in items(run)}, "no verdict stands for another answer"


def test_no_test_split(run: RunFolder, tiny_base: Path) -> None:
    write_data(run, [])
    assert write_completions(run, small_recipe(tiny_base, data={"system": "Be brief."}, **FEW))
    assert [item.place for item in items(run)] == [
        "edge case: prompt injection",
        "edge case: almost empty input",
    ]
    system, asked, _ = items(run)[0].messages
    assert system.content == "Be brief."
    assert "Which of these is a fruit" in asked.content


def test_plain_texts_are_continued(run: RunFolder, tiny_base: Path) -> None:
    examples = texts(4)
    write_data(run, examples, form="text")
    assert write_completions(run, small_recipe(tiny_base, **FEW))
    found = items(run)
    assert len(found) == 4, "no edge cases: they are for chat"
    for item in found:
        whole = next(e.answer for e in examples if e.place == item.place)
        begun = item.messages[0].content
        assert begun + item.beside["reference"] == whole
        assert 0 < len(begun) < len(whole)
        tokenizer = load_tokenizer(tiny_base)
        ids = tokenizer(whole).input_ids[: len(tokenizer(whole).input_ids) // 2]
        model = load_base(tiny_base)
        said = plain_greedy(model, ids, stop=tokenizer.eos_token_id, max_new=6)
        assert item.beside["base model"] == tokenizer.decode(said)


def test_none_are_wanted(run: RunFolder, tiny_base: Path) -> None:
    recipe = small_recipe(tiny_base, completions={"num_prompts": 0})
    assert not write_completions(run, recipe)
    assert not run.completions.exists()


def test_no_adapter(run: RunFolder, tiny_base: Path) -> None:
    write_data(run, conversations(2))
    (run.adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="adapter_model"):
        write_completions(run, small_recipe(tiny_base, **FEW))
    assert not run.completions.exists()
    run.adapter.rename(run.path / "elsewhere")
    with pytest.raises(StorageError, match=r"adapter does not exist\. Run `doratune train` first"):
        write_completions(run, small_recipe(tiny_base, **FEW))


def test_a_full_disk_leaves_nothing_behind(run: RunFolder, tiny_base: Path) -> None:
    write_data(run, conversations(9))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"review\.jsonl could not be written: .*too large"):
            write_completions(run, small_recipe(tiny_base, **FEW))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(run.completions.iterdir())
    assert write_completions(run, small_recipe(tiny_base, **FEW))


def test_open_tasks_are_judged_and_a_failing_judge_costs_no_completions(
    run: RunFolder, tiny_base: Path
) -> None:
    write_data(run, conversations(9))
    with running(lambda *_: "[[tie]]", [400]) as server:
        judge = {"url": server.url, "model": "wise", "api_key_variable": None}
        recipe = small_recipe(tiny_base, completions={**FEW["completions"], "judge": judge})
        with pytest.raises(ValueError, match="status 400"):
            write_completions(run, recipe)
        first = completions_review(run).items.read_bytes()
        assert write_completions(run, recipe)
        assert len(server.requests) == 1 + 2 * 3
        assert not write_completions(run, recipe)
    assert completions_review(run).items.read_bytes() == first
    assert JudgeFile.read(run.completions / "judge.json").ties.value == 1
    assert {"completions", "judge"} <= set(RecordFile.read(run.record).stages)
    other = small_recipe(tiny_base, completions={"num_prompts": 5, "max_new_tokens": 7})
    assert write_completions(run, other)
    assert not (run.completions / "judge.json").exists(), "it spoke of other answers"


@pytest.mark.parametrize("kind", ["labels", "text"])
def test_closed_tasks_and_texts_are_not_judged(
    kind: str, run: RunFolder, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "labels":
        write_data(run, conversations(9, labelled=True))
    else:
        write_data(run, texts(3), form="text")
    judge = {"url": "http://judge.invalid", "model": "wise"}
    recipe = small_recipe(tiny_base, completions={**FEW["completions"], "judge": judge})
    assert write_completions(run, recipe)
    assert "judge left out: the data" in " ".join(capsys.readouterr().err.split())
    assert not (run.completions / "judge.json").exists()

"""Data that is more than questions and answers, through the doors of data, training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doratune.base import load_tokenizer
from doratune.data import Renderer, prepare_data, read_examples
from doratune.errors import ConfigError, DataError
from doratune.evaluate import evaluate_models
from doratune.recipe import Recipe
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, RecordFile, Step
from doratune.train import plan_recipe, train_model
from doratune.train.stage import _token_dataset
from tests.tiny import CHATML, save_tiny

# Shows tools, calls and results, as Qwen2.5's template does.
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    + CHATML.replace(
        "message['content']",
        "message['content'] + (message['tool_calls'] | tojson if message['tool_calls'] else '')",
    )
)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def prepared(
    tmp_path: Path, base: Path, rows: list[dict[str, Any]], **data: Any
) -> tuple[RunFolder, Recipe]:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.model_validate(
        {
            "name": "kinds",
            "model": {"source": str(base)},
            "data": {"source": str(source), **data},
            "adapter": {"r": 2, "lora_alpha": 4},
            "train": {"max_steps": 3, "batch_size": 4},
        }
    )
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    RecordFile(name="kinds", recipe_digest="d", seed=0).write(run.record)
    prepare_data(run, recipe)
    return run, recipe


def test_preference_data_is_kept_but_neither_trained_on_nor_evaluated(
    tmp_path: Path, tiny_base: Path
) -> None:
    rows = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(40)]
    run, recipe = prepared(tmp_path, tiny_base, rows)
    assert DataFile.read(run.data).format == "preference"
    (first, *_) = read_examples(run, "train")
    assert first.rejected is not None
    assert first.answer.replace("good", "bad") == first.rejected[0].content
    for door in (train_model, plan_recipe):
        with pytest.raises(
            ConfigError,
            match=r"preference data, 3\d pairs .* training on preferences is not there yet\. To tr",
        ):
            door(run, recipe)
    with pytest.raises(DataError, match=r"are preference data, and choosing .* not evaluated yet"):
        evaluate_models(run, recipe)


def test_the_longer_of_two_answers_counts(tmp_path: Path, tiny_base: Path) -> None:
    rows = [
        {"prompt": f"q{n}", "chosen": "ok", "rejected": "bad " * (90 if n % 2 else 2)}
        for n in range(40)
    ]
    run, _ = prepared(tmp_path, tiny_base, rows, max_length=100, on_too_long="drop")
    data = DataFile.read(run.data)
    assert sum(split.num_examples for split in data.splits.values()) == 20
    renderer = Renderer(load_tokenizer(tiny_base))
    longer = [([*e.prompt, *(e.rejected or [])], None) for e in read_examples(run, "train")]
    assert data.splits["train"].max_tokens == max(renderer.lengths(longer))


def test_plain_text_is_trained_on_and_not_evaluated(tmp_path: Path, tiny_base: Path) -> None:
    rows = [{"text": f"The fox number {n} jumps over the fees."} for n in range(40)]
    run, recipe = prepared(tmp_path, tiny_base, rows)
    tokens = _token_dataset(run, recipe, load_tokenizer(tiny_base), "train")
    assert all(row["labels"] == row["input_ids"] for row in tokens)
    assert plan_recipe(run, recipe).num_tokens == sum(len(ids) for ids in tokens["input_ids"])
    assert train_model(run, recipe)
    assert len(Step.read_lines(run.steps)) == 3
    with pytest.raises(DataError, match=r"are plain text, which asks nothing.*`doratune merge`"):
        evaluate_models(run, recipe)


def test_tools_reach_the_model_in_training(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    (base / "chat_template.jinja").write_text(TOOLS)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"City {n}?"},
                {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"city": n}}]},
                {"role": "tool", "content": "dry", "name": "weather"},
                {"role": "assistant", "content": "It is dry."},
            ],
            "tools": [WEATHER],
        }
        for n in range(20)
    ]  # fmt: skip
    run, recipe = prepared(tmp_path, base, rows)
    tokenizer = load_tokenizer(base)
    (row, *_) = _token_dataset(run, recipe, tokenizer, "train")
    text = tokenizer.decode(row["input_ids"])
    assert text.startswith(
        '<|im_start|>system\n[{"type": "function", "function": {"name": "weather"'
    )
    learnt = tokenizer.decode([label for label in row["labels"] if label != -100])
    assert learnt.endswith("<|im_end|>It is dry.<|im_end|>")
    assert learnt.startswith('[{"type": "function", "function": {"name": "weather", "arguments"')
    assert "dry<|im_end|>\n" in text

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from doratune.base import load_base, load_tokenizer
from doratune.data import Renderer
from doratune.errors import AdapterError, DataError, StorageError
from doratune.evaluate import evaluate_models
from doratune.recipe.schema import Recipe
from doratune.record.evaluation import EvalFile, Sample
from doratune.record.files import read_jsonl, write_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, Example, Message, SplitSummary
from tests.base.test_likelihood import plain_logprob
from tests.evaluate.test_generate import plain_greedy

LABELS = ["capped", "excluded from the agreement", "uncapped"]
TEXTS = [
    "The supplier's total liability shall not exceed the fees paid.",
    "Nothing limits liability for fraud.",
    "The quick brown fox.",
    "A party pays.",
    "Liability shall not exceed the fees paid in the twelve months before, nor 100.",
]


def write_data(run: RunFolder, labels: list[str] | None, num_examples: int = 5) -> list[Example]:
    examples = []
    for i, text in enumerate(TEXTS[:num_examples]):
        answer = LABELS[i % 3]
        messages = [Message(role="user", content=text), Message(role="assistant", content=answer)]
        examples.append(
            Example(
                id=f"{i:016x}",
                messages=messages,
                label=answer if labels else None,
                place=f"t.jsonl:{i + 1}",
            )
        )
    write_jsonl(run.examples("test"), [example.model_dump() for example in examples])
    summary = SplitSummary(
        num_examples=num_examples,
        num_tokens=100,
        max_tokens=50,
        digest=f"{num_examples}",
        ordered_digest=f"{num_examples}",
    )
    DataFile(
        sources=[],
        format="classification" if labels else "chat",
        format_reason="stated in the recipe",
        digest="0",
        ordered_digest="0",
        labels=labels,
        splits={"test": summary},
    ).write(run.data)
    return examples


def write_adapter(run: RunFolder, base: Path) -> None:
    """A DoRA adapter far from the identity, written by PEFT itself."""
    torch.manual_seed(0)
    config = LoraConfig(use_dora=True, r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(load_base(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        if "lora_magnitude_vector" in name:
            parameter.data *= torch.empty_like(parameter).uniform_(0.5, 1.5)
    model.save_pretrained(run.adapter)


def models(run: RunFolder, base: Path) -> dict[str, torch.nn.Module]:
    """The independent truth: the base, and PEFT's own DoRA forward."""
    return {
        "base": load_base(base),
        "tuned": PeftModel.from_pretrained(load_base(base), run.adapter).eval(),
    }


@pytest.fixture
def run(tmp_path: Path, tiny_base: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.record.write_text(json.dumps({"name": "run", "recipe_digest": "0", "seed": 0}))
    write_adapter(run, tiny_base)
    return run


@pytest.fixture
def recipe(tiny_base: Path) -> Recipe:
    return make_recipe(tiny_base)


def make_recipe(base: Path, **settings: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "run",
            "model": {"source": str(base)},
            "data": {"source": "t.jsonl"},
            "eval": {"batch_size": 2, "max_new_tokens": 8, **settings},
        }
    )


def test_labels_are_scored_by_base_and_by_base_with_adapter(
    run: RunFolder, recipe: Recipe, tiny_base: Path
) -> None:
    examples = write_data(run, LABELS)
    assert evaluate_models(run, recipe)

    renderer = Renderer(load_tokenizer(tiny_base), "model")
    samples = [Sample.model_validate(row) for row in read_jsonl(run.samples("test"))]
    assert [(s.model, s.id) for s in samples] == [
        (name, example.id) for name in ("base", "tuned") for example in examples
    ]
    file = EvalFile.read(run.eval_file("test"))
    for name, model in models(run, tiny_base).items():
        figures = file.base if name == "base" else file.tuned
        correct = []
        for example, sample in zip(examples, [s for s in samples if s.model == name], strict=True):
            prompt = renderer.prompt(example.prompt)
            answers = {label: renderer.answer(example.prompt, label) for label in LABELS}
            plain = {k: plain_logprob(model, prompt, ids) for k, ids in answers.items()}
            assert sample.label_logprobs == pytest.approx(plain, rel=1e-4)
            assert sample.prediction == max(plain, key=plain.__getitem__)
            assert sample.reference == example.answer
            assert sample.correct == (sample.prediction == example.answer)
            expected = -plain[example.answer] / len(answers[example.answer])
            assert sample.answer_nll == pytest.approx(expected, rel=1e-4)
            correct.append(sample.correct)
        assert figures.accuracy is not None
        assert figures.accuracy.value == np.mean(correct)
        assert [row.label for row in figures.classes] == LABELS
        assert sum(row.n for row in figures.bins) == len(examples)
        nlls = [s.answer_nll for s in samples if s.model == name]
        assert figures.answer_nll.value == pytest.approx(np.mean(nlls))
        assert figures.exact_match is None
    assert (file.kind, file.num_examples, file.labels) == ("labels", 5, LABELS)
    gain = file.tuned.accuracy.value - file.base.accuracy.value
    assert file.difference.value.value == pytest.approx(gain)
    base, tuned = ([s.answer_nll for s in samples if s.model == name] for name in ("base", "tuned"))
    assert base != pytest.approx(tuned, rel=0.01)


def test_open_tasks_are_answered_in_words(run: RunFolder, recipe: Recipe, tiny_base: Path) -> None:
    examples = write_data(run, None)
    assert evaluate_models(run, recipe)
    file = EvalFile.read(run.eval_file("test"))
    assert (file.kind, file.labels, file.base.accuracy, file.base.bins) == (
        "generation",
        None,
        None,
        [],
    )
    assert file.base.exact_match is not None
    tokenizer = load_tokenizer(tiny_base)
    renderer = Renderer(tokenizer, "model")
    rows = iter(read_jsonl(run.samples("test")))
    for name, model in models(run, tiny_base).items():
        for example in examples:
            prompt = renderer.prompt(example.prompt)
            answer = renderer.answer(example.prompt, example.answer)
            row = next(rows)
            assert (row["model"], row["label_logprobs"]) == (name, None)
            nll = -plain_logprob(model, prompt, answer) / len(answer)
            assert row["answer_nll"] == pytest.approx(nll, rel=1e-4)
            said = plain_greedy(model, prompt, stop=tokenizer.eos_token_id, max_new=8)
            assert row["prediction"] == tokenizer.decode(said)


def test_a_right_answer_in_words_is_recognised(run: RunFolder, recipe: Recipe) -> None:
    examples = write_data(run, None)
    evaluate_models(run, recipe)
    said = {row["id"]: row["prediction"] for row in read_jsonl(run.samples("test"))[:5]}
    # What the base says becomes the reference; the end of turn is not part of the text.
    for example in examples:
        example.messages[-1].content = f" {said[example.id]}\n"
    write_jsonl(run.examples("test"), [example.model_dump() for example in examples])
    data = DataFile.read(run.data)
    data.splits["test"].digest = "other"
    data.write(run.data)
    assert evaluate_models(run, recipe)
    file = EvalFile.read(run.eval_file("test"))
    assert file.base.exact_match is not None
    assert file.base.exact_match.value == 1
    assert file.difference.value.value < 0


def test_figures_are_made_again_only_when_something_changed(
    run: RunFolder, recipe: Recipe, tiny_base: Path
) -> None:
    write_data(run, LABELS, num_examples=2)
    assert evaluate_models(run, recipe)
    first = run.samples("test").read_bytes()
    assert not evaluate_models(run, recipe)
    run.samples("test").unlink()
    assert evaluate_models(run, recipe)
    assert run.samples("test").read_bytes() == first
    assert evaluate_models(run, make_recipe(tiny_base, num_bins=5))
    assert evaluate_models(run, make_recipe(tiny_base, task="again"))
    assert EvalFile.read(run.eval_file("again")).num_examples == 2
    write_data(run, LABELS, num_examples=3)
    assert evaluate_models(run, recipe)
    assert EvalFile.read(run.eval_file("test")).num_examples == 3


def test_a_damaged_adapter_leaves_no_figures(run: RunFolder, recipe: Recipe) -> None:
    write_data(run, LABELS)
    (run.adapter / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors cannot be read"):
        evaluate_models(run, recipe)
    assert not run.eval.exists()


def test_no_test_examples(run: RunFolder, recipe: Recipe) -> None:
    write_data(run, LABELS, num_examples=0)
    with pytest.raises(DataError, match=r"data\.json says there are 0 test examples"):
        evaluate_models(run, recipe)


def test_no_data_yet(run: RunFolder, recipe: Recipe) -> None:
    with pytest.raises(StorageError, match=r"data\.json cannot be read"):
        evaluate_models(run, recipe)

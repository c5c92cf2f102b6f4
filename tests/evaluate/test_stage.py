"""Evaluation through its door, on a tiny model with a real adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from doratune.base import load_base, load_tokenizer
from doratune.data import Renderer
from doratune.errors import AdapterError, DataError, StorageError
from doratune.evaluate import answers, evaluate_models
from doratune.recipe.schema import Recipe
from doratune.record.evaluation import AnswersFile, EvalFile, Sample
from doratune.record.files import digest_file, read_jsonl, write_jsonl
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, Example, Message, RecordFile, Split, SplitSummary
from tests.base.test_likelihood import plain_logprob
from tests.evaluate.test_generate import plain_greedy
from tests.tiny import save_moved_adapter

LABELS = ["capped", "excluded from the agreement", "uncapped"]
TEXTS = [
    "The supplier's total liability shall not exceed the fees paid.",
    "Nothing limits liability for fraud.",
    "The quick brown fox.",
    "A party pays.",
    "Liability shall not exceed the fees paid in the twelve months before, nor 100.",
]


def write_data(
    run: RunFolder,
    labels: list[str] | None,
    num_examples: int = 5,
    num_validation: int = 0,
    difficulty: str | None = None,
) -> list[Example]:
    """Writes the splits, and returns the test examples."""
    splits: dict[Split, SplitSummary] = {}
    for split, number in (("validation", num_validation), ("test", num_examples)):
        examples = []
        for i, text in enumerate(TEXTS[:number]):
            answer = LABELS[i % 3]
            turns = [
                Message(role="user", content=text if split == "test" else f"Also: {text}"),
                Message(role="assistant", content=answer),
            ]
            examples.append(
                Example(
                    id=f"{i:016x}",
                    messages=turns,
                    label=answer if labels else None,
                    difficulty=difficulty,
                    place=f"t.jsonl:{i + 1}",
                )
            )
        write_jsonl(run.examples(split), [example.model_dump() for example in examples])
        splits[split] = SplitSummary(
            num_examples=number,
            num_tokens=100,
            max_tokens=50,
            digest=f"{number}",
            ordered_digest=f"{number}",
        )
    DataFile(
        sources=[],
        format="classification" if labels else "chat",
        format_reason="stated in the recipe",
        digest="0",
        ordered_digest="0",
        labels=labels,
        splits=splits,
    ).write(run.data)
    return examples


def write_adapter(run: RunFolder, base: Path, seed: int = 0) -> None:
    save_moved_adapter(run.adapter, base, seed=seed, std=0.1, spread=0.1)


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


def make_recipe(
    base: Path, seed: int = 0, difficulty: str | None = None, **settings: object
) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "run",
            "seed": seed,
            "model": {"source": str(base)},
            "data": {"source": "t.jsonl", "difficulty_column": difficulty},
            "eval": {"batch_size": 2, "max_new_tokens": 8, **settings},
        }
    )


def forbid_models(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """From here on, loading one of these is an error."""

    def load(*arguments: object) -> None:
        raise AssertionError("a model was loaded")

    for name in names or ("load_base", "load_tuned", "load_tokenizer"):
        monkeypatch.setattr(answers, name, load)


def interrupt_before_the_base(
    run: RunFolder, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C once the tuned model has answered."""

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(answers, "load_base", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate_models(run, recipe)


def test_labels_are_scored_by_base_and_by_base_with_adapter(
    run: RunFolder, recipe: Recipe, tiny_base: Path
) -> None:
    examples = write_data(run, LABELS)
    assert evaluate_models(run, recipe)

    renderer = Renderer(load_tokenizer(tiny_base), "model")
    samples = Sample.read_lines(run.samples("test"))
    assert [(s.model, s.split, s.id) for s in samples] == [
        (name, "test", example.id) for name in ("base", "tuned") for example in examples
    ]
    file = EvalFile.read(run.eval_file("test"))
    for name, model in models(run, tiny_base).items():
        metrics = file.figures(name).metrics
        mine = [s for s in samples if s.model == name]
        for example, sample in zip(examples, mine, strict=True):
            prompt = renderer.prompt(example.prompt)
            answers = {label: renderer.answer(example.prompt, label) for label in LABELS}
            plain = {k: plain_logprob(model, prompt, ids) for k, ids in answers.items()}
            assert sample.label_logprobs == pytest.approx(plain, rel=1e-4)
            assert sample.prediction == max(plain, key=plain.__getitem__)
            assert sample.reference == example.answer
            assert sample.correct == (sample.prediction == example.answer)
            assert sample.num_answer_tokens == len(answers[example.answer])
            expected = -plain[example.answer] / len(answers[example.answer])
            assert sample.answer_nll == pytest.approx(expected, rel=1e-4)
        assert metrics["accuracy"].value == np.mean([s.correct for s in mine])
        assert metrics["answer_nll"].value == pytest.approx(np.mean([s.answer_nll for s in mine]))
        assert "exact_match" not in metrics
        assert [row.label for row in file.figures(name).classes] == LABELS
    assert (file.kind, file.num_examples, file.labels) == ("labels", 5, LABELS)
    base, tuned = ([s.answer_nll for s in samples if s.model == name] for name in ("base", "tuned"))
    assert base != pytest.approx(tuned, rel=0.01)


def test_the_validation_split_is_asked_for_the_temperature(
    run: RunFolder, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(run, LABELS, num_examples=4, num_validation=5)
    evaluate_models(run, recipe)
    said = " ".join(capsys.readouterr().err.split())
    assert "Asking the tuned and the base model 4 test questions and 5 validation ques" in said
    samples = Sample.read_lines(run.samples("test"))
    splits = ["test"] * 4 + ["validation"] * 5
    assert [s.split for s in samples] == splits * 2
    file = EvalFile.read(run.eval_file("test"))
    for model in ("base", "tuned"):
        calibration = file.figures(model).calibration
        assert calibration is not None
        assert calibration.num_validation == 5
        assert calibration.temperature is not None
    assert file.num_examples == file.base.metrics["accuracy"].n == 4
    asked = AnswersFile.read(run.answers("test"))
    assert asked.num_questions == {"test": 4, "validation": 5}
    assert asked.dtype == {"base": "float32", "tuned": "float32"}
    assert min(asked.seconds.values()) > 0
    assert file.base.seconds == asked.seconds["base"]


def test_no_more_validation_examples_are_asked_than_a_temperature_needs(
    run: RunFolder, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "VALIDATION_QUESTIONS", 2)
    write_data(run, LABELS, num_examples=1, num_validation=5)
    evaluate_models(run, recipe)
    assert AnswersFile.read(run.answers("test")).num_questions == {"test": 1, "validation": 2}


def test_open_tasks_are_answered_in_words(run: RunFolder, recipe: Recipe, tiny_base: Path) -> None:
    examples = write_data(run, None, num_validation=3)
    assert evaluate_models(run, recipe)
    file = EvalFile.read(run.eval_file("test"))
    assert (file.kind, file.labels, file.primary) == ("generation", None, "exact_match")
    assert file.base.calibration is None
    tokenizer = load_tokenizer(tiny_base)
    renderer = Renderer(tokenizer, "model")
    rows = iter(read_jsonl(run.samples("test")))
    for name, model in models(run, tiny_base).items():
        for example in examples:
            prompt = renderer.prompt(example.prompt)
            answer = renderer.answer(example.prompt, example.answer)
            row = next(rows)
            assert (row["model"], row["split"], row["label_logprobs"]) == (name, "test", None)
            nll = -plain_logprob(model, prompt, answer) / len(answer)
            assert row["answer_nll"] == pytest.approx(nll, rel=1e-4)
            said = plain_greedy(model, prompt, stop=tokenizer.eos_token_id, max_new=8)
            assert row["prediction"] == tokenizer.decode(said)
    assert next(rows, None) is None, "no temperature, no validation questions"


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
    assert file.base.metrics["exact_match"].value == 1
    assert file.base.metrics["token_f1"].value == 1
    assert file.differences["exact_match"].value.value < 0


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
    assert evaluate_models(run, make_recipe(tiny_base, task="again"))
    assert EvalFile.read(run.eval_file("again")).num_examples == 2
    write_data(run, LABELS, num_examples=3)
    assert evaluate_models(run, recipe)
    assert EvalFile.read(run.eval_file("test")).num_examples == 3
    assert list(RecordFile.read(run.record).stages) == ["answers", "eval"]


def test_other_metrics_need_no_model(
    run: RunFolder, recipe: Recipe, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(run, LABELS, num_validation=4)
    evaluate_models(run, recipe)
    before = EvalFile.read(run.eval_file("test"))
    samples = digest_file(run.samples("test"))
    forbid_models(monkeypatch)
    passes = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, arguments: passes.append(module)
    )
    for settings in ({"num_bins": 3}, {"coverages": [0.5]}, {"num_strata": 2}, {"batch_size": 9}):
        changed = evaluate_models(run, make_recipe(tiny_base, **settings))
        assert changed, settings
    assert evaluate_models(run, make_recipe(tiny_base, seed=7))
    after = EvalFile.read(run.eval_file("test"))
    hook.remove()
    assert passes == []
    assert digest_file(run.samples("test")) == samples
    for name, figure in before.tuned.metrics.items():
        assert after.tuned.metrics[name].value == figure.value
    assert after.tuned.metrics["label_nll"].method.endswith("seed 7)")


def test_json_fields_need_no_model_either(
    run: RunFolder, recipe: Recipe, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = write_data(run, None, num_examples=2)
    for example in examples:
        example.messages[-1].content = '{"kind": "capped"}'
    write_jsonl(run.examples("test"), [example.model_dump() for example in examples])
    evaluate_models(run, recipe)
    assert "json_fields" not in EvalFile.read(run.eval_file("test")).differences
    forbid_models(monkeypatch)
    assert evaluate_models(run, make_recipe(tiny_base, answer_form="json"))
    assert EvalFile.read(run.eval_file("test")).base.metrics["json_fields"].value == 0


def test_references_that_are_no_json_objects_are_found_before_any_answer(
    run: RunFolder, tiny_base: Path
) -> None:
    write_data(run, None)
    with pytest.raises(DataError, match="the reference answer 'capped' is no JSON object"):
        evaluate_models(run, make_recipe(tiny_base, answer_form="json"))
    assert not run.eval.exists()


def test_difficulty_comes_from_the_data(run: RunFolder, tiny_base: Path) -> None:
    recipe = make_recipe(tiny_base, difficulty="level")
    write_data(run, LABELS, difficulty="easy")
    assert evaluate_models(run, recipe)
    (row,) = [r for r in EvalFile.read(run.eval_file("test")).strata if r.by == "difficulty"]
    assert (row.name, row.base.n) == ("easy", 5)
    write_data(run, LABELS, difficulty="hard")
    assert evaluate_models(run, recipe)
    (row,) = [r for r in EvalFile.read(run.eval_file("test")).strata if r.by == "difficulty"]
    assert row.name == "hard"


def test_answers_of_the_tuned_model_survive_an_interruption(
    run: RunFolder, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(run, LABELS)
    interrupt_before_the_base(run, recipe, monkeypatch)
    assert not run.samples("test").exists()
    with monkeypatch.context() as patch:
        forbid_models(patch, "load_tuned")
        assert evaluate_models(run, recipe)
    resumed = run.samples("test").read_bytes()
    assert [path.name for path in run.eval.iterdir() if path.name.startswith(".")] == []
    run.samples("test").unlink()
    evaluate_models(run, recipe)
    assert run.samples("test").read_bytes() == resumed


def test_answers_of_another_adapter_are_not_taken_up(
    run: RunFolder, recipe: Recipe, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(run, LABELS)
    interrupt_before_the_base(run, recipe, monkeypatch)
    write_adapter(run, tiny_base, seed=1)
    evaluate_models(run, recipe)
    resumed = run.samples("test").read_bytes()
    run.samples("test").unlink()
    evaluate_models(run, recipe)
    assert run.samples("test").read_bytes() == resumed


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

"""Figures of every epoch: what they are, and that training does not notice them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from doratune.adapter.tuned import load_tuned
from doratune.base import load_base, load_tokenizer
from doratune.data import Renderer, read_examples
from doratune.errors import DataError
from doratune.progress import progress_bar
from doratune.recipe import Recipe
from doratune.record.evaluation import EpochFigures
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import RecordFile, Step, TrainFile
from doratune.train import train_model
from doratune.train.epochs import EpochLog
from doratune.train.validation import Validation
from tests.base.test_likelihood import plain_logprob
from tests.tiny import tiny_model
from tests.train.test_stage import prepared, recipe

EVERY = {"every_epoch": True}
TWO_EPOCHS = {"max_steps": None, "epochs": 2.0, "batch_size": 16}


def settings_of(folder: Path, base: Path, **sections: dict[str, Any]) -> Recipe:
    data = {"validation_share": 0.2, **sections.pop("data", {})}
    data.setdefault("source", str(recipe(folder, base).data.source))
    return recipe(folder, base, data=data, **sections)


def trained(
    folder: Path, base: Path, name: str = "run", **sections: dict[str, Any]
) -> tuple[RunFolder, Recipe]:
    settings = settings_of(folder, base, **sections)
    run = prepared(folder, settings, name)
    train_model(run, settings)
    return run, settings


def losses(run: RunFolder) -> list[float]:
    return [step.loss for step in Step.read_lines(run.steps)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_training_does_not_notice(tmp_path: Path, tiny_base: Path, checkpointing: bool) -> None:
    """Dropout is on, so that a single random number drawn in between would show."""
    train = {**TWO_EPOCHS, "gradient_checkpointing": checkpointing}
    runs = {}
    for name, settings in (("with", EVERY), ("without", {})):
        runs[name], _ = trained(tmp_path, tiny_base, name, train=train, eval=settings)
    assert losses(runs["with"]) == losses(runs["without"])
    mine, other = (load_file(run.adapter / "adapter_model.safetensors") for run in runs.values())
    assert all(torch.equal(tensor, other[key]) for key, tensor in mine.items())
    assert runs["with"].epochs.exists()
    assert not runs["without"].epochs.exists()


def test_one_line_before_training_and_after_each_epoch(tmp_path: Path, tiny_base: Path) -> None:
    texts = tmp_path / "elsewhere.jsonl"
    told = ["The quick brown fox.", "Nothing limits liability.", " "]
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in told))
    run, settings = trained(
        tmp_path, tiny_base, train=TWO_EPOCHS, eval={**EVERY, "benchmarks": {"texts": str(texts)}}
    )
    lines = EpochFigures.read_lines(run.epochs)
    steps = TrainFile.read(run.train).num_steps
    assert [(line.epoch, line.step) for line in lines] == [(0, 0), (1, steps // 2), (2, steps)]
    examples = read_examples(run, "validation")
    assert {line.num_examples for line in lines} == {len(examples)}

    tokenizer = load_tokenizer(tiny_base)
    renderer = Renderer(tokenizer)
    models = {0: load_base(tiny_base), 2: load_tuned(tiny_base, run.adapter)}
    for epoch, model in models.items():
        chances, right = [], []
        for example in examples:
            prompt = renderer.prompt(example.prompt)
            answers = [renderer.answer(example.prompt, label) for label in ("capped", "excluded")]
            weights = np.exp([plain_logprob(model, prompt, answer) for answer in answers])
            chances.append(weights / weights.sum())
            right.append(["capped", "excluded"].index(example.answer))
        found = lines[epoch].metrics
        correct = np.argmax(chances, axis=1) == right
        assert found["accuracy"] == np.mean(correct)
        nll = -np.log([row[i] for row, i in zip(chances, right, strict=True)])
        assert found["label_nll"] == pytest.approx(nll.mean(), rel=1e-3)
        confidence = np.max(chances, axis=1)
        bins = (confidence * 10).astype(int).clip(0, 9)
        gaps = [abs((correct - confidence)[bins == b].sum()) for b in range(10)]
        assert found["ece"] == pytest.approx(sum(gaps) / len(examples), rel=1e-3)
        sums, counts = 0.0, 0
        for text in told[:2]:
            ids = tokenizer(text).input_ids
            sums -= plain_logprob(model, [tokenizer.eos_token_id], ids)
            counts += len(ids)
        assert found["out_of_domain_perplexity"] == pytest.approx(np.exp(sums / counts), rel=1e-3)
    assert found.keys() == {"accuracy", "ece", "label_nll", "out_of_domain_perplexity"}
    assert lines[-1].metrics["label_nll"] < lines[0].metrics["label_nll"]
    assert not train_model(run, settings), "up to date"


def test_open_tasks_are_watched_by_their_perplexity(tmp_path: Path, tiny_base: Path) -> None:
    source = tmp_path / "chat.jsonl"
    rows = [{"prompt": f"Question {n}?", "completion": "no " * (1 + n % 3)} for n in range(40)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, _ = trained(
        tmp_path, tiny_base, data={"source": str(source)}, train={"max_steps": 3}, eval=EVERY
    )
    lines = EpochFigures.read_lines(run.epochs)
    # Training ends within the first epoch.
    assert [line.step for line in lines] == [0, 3]
    model, renderer = load_base(tiny_base), Renderer(load_tokenizer(tiny_base))
    nll, tokens = [], []
    for example in read_examples(run, "validation"):
        answer = renderer.answer(example.prompt, example.answer)
        nll.append(-plain_logprob(model, renderer.prompt(example.prompt), answer))
        tokens.append(len(answer))
    expected = {
        "answer_nll": np.mean(np.divide(nll, tokens)),
        "perplexity": np.exp(sum(nll) / sum(tokens)),
    }
    assert lines[0].metrics == pytest.approx(expected, rel=1e-4)


def test_plain_text_is_watched_by_its_perplexity(tmp_path: Path, tiny_base: Path) -> None:
    source = tmp_path / "text.jsonl"
    rows = [{"text": f"The fox number {n} jumps over the fees."} for n in range(40)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, _ = trained(
        tmp_path, tiny_base, data={"source": str(source)}, train={"max_steps": 2}, eval=EVERY
    )
    model, renderer = load_base(tiny_base), Renderer(load_tokenizer(tiny_base))
    sequences = [
        renderer.example(example.messages).input_ids for example in read_examples(run, "validation")
    ]
    nll = -sum(plain_logprob(model, ids[:1], ids[1:]) for ids in sequences)
    expected = np.exp(nll / sum(len(ids) - 1 for ids in sequences))
    first = EpochFigures.read_lines(run.epochs)[0]
    assert first.metrics == pytest.approx({"perplexity": expected}, rel=1e-4)


def test_nothing_to_measure_on(tmp_path: Path, tiny_base: Path) -> None:
    settings = settings_of(tmp_path, tiny_base, data={"validation_share": 0.0}, eval=EVERY)
    run = prepared(tmp_path, settings)
    with pytest.raises(DataError, match=r"measures the model on the validation split, which has 0"):
        train_model(run, settings)


def test_a_finished_training_is_not_done_again_for_them(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained(tmp_path, tiny_base, train={"max_steps": 2})
    settings = settings_of(tmp_path, tiny_base, train={"max_steps": 2}, eval=EVERY)
    assert not train_model(run, settings)
    said = " ".join(capsys.readouterr().err.split())
    assert "There are no figures of every epoch: the adapter was trained without" in said


def test_an_interrupted_training_repeats_no_line(tmp_path: Path, tiny_base: Path) -> None:
    """The lines after the checkpoint are made again, also the one of an epoch that it ends."""
    train = {**TWO_EPOCHS, "save_steps": 3}
    run, _ = trained(tmp_path, tiny_base, "whole", train=train, eval=EVERY)
    whole = EpochFigures.read_lines(run.epochs)
    per_epoch = whole[1].step
    train["save_steps"] = per_epoch
    settings = settings_of(tmp_path, tiny_base, train=train, eval=EVERY)
    run = prepared(tmp_path, settings, "stopped")
    stop_after(run, settings, per_epoch + 1)
    # As if the kill had come between the checkpoint and the line of the epoch.
    lines = EpochFigures.read_lines(run.epochs)
    run.epochs.write_text("".join(f"{line.model_dump_json()}\n" for line in lines[:1]))
    assert train_model(run, settings)
    assert TrainFile.read(run.train).resumed_from_steps == [per_epoch]
    resumed = EpochFigures.read_lines(run.epochs)
    assert [line.step for line in resumed] == [line.step for line in whole]
    for mine, theirs in zip(resumed, whole, strict=True):
        assert mine.metrics == pytest.approx(theirs.metrics, rel=1e-6)


def stop_after(run: RunFolder, settings: Recipe, step: int) -> None:
    """Trains until a step and stops there by a real interruption, from within the step log."""
    from doratune.train import steps

    plain = steps.StepLog.on_log

    def on_log(self: steps.StepLog, args: Any, state: Any, control: Any, **more: Any) -> None:
        plain(self, args, state, control, **more)
        if state.global_step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.StepLog, "on_log", on_log)
        with pytest.raises(KeyboardInterrupt):
            train_model(run, settings)
    assert "train" not in RecordFile.read(run.record).stages


def test_measuring_draws_no_random_number(tmp_path: Path, tiny_base: Path) -> None:
    settings = settings_of(tmp_path, tiny_base)
    validation = Validation(prepared(tmp_path, settings), settings, load_tokenizer(tiny_base))
    model = tiny_model().train()  # which seeds
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    validation.figures(model)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()


def test_lines_of_another_training_go(tmp_path: Path, tiny_base: Path) -> None:
    settings = settings_of(tmp_path, tiny_base)
    run = prepared(tmp_path, settings)
    validation = Validation(run, settings, load_tokenizer(tiny_base))
    line = EpochFigures(epoch=0, step=0, metrics={"accuracy": 1}, num_examples=1, seconds=1)
    for resumed_step, kept in ((3, [line]), (0, [])):
        run.epochs.write_text(line.model_dump_json() + "\n")
        EpochLog(run.epochs, resumed_step, progress_bar(), validation)
        assert EpochFigures.read_lines(run.epochs) == kept

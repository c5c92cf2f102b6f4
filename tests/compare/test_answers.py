from __future__ import annotations

from pathlib import Path

import pytest
import torch

from doratune.base import load_base, load_tokenizer
from doratune.compare.answers import answer_test
from doratune.data import Renderer, read_examples
from doratune.data.questions import make_questions
from doratune.evaluate.ask import ask
from doratune.record.schemas import DataFile
from tests.compare.comparisons import prepared, recipe
from tests.tiny import save_tiny


def test_the_base_is_quantised_as_the_recipe_says(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = save_tiny(tmp_path / "base", torch.float32, hidden_size=64, intermediate_size=128)
    losses = {}
    for quantize in (None, "nf4"):
        settings = recipe(tmp_path, base, model={"source": str(base), "quantize": quantize})
        run = prepared(tmp_path / str(quantize), settings)
        answers = answer_test(run, settings, "base")
        losses[quantize] = [sample.answer_nll for sample in answers.samples]
    tokenizer = load_tokenizer(base)
    labels = DataFile.read(run.data).labels
    questions = make_questions(Renderer(tokenizer, "model"), read_examples(run, "test"), labels)
    model = load_base(base, "auto", "nf4")
    expected = ask(model, tokenizer, questions, settings.eval, "").answer_nll
    assert losses["nf4"] == pytest.approx(expected, rel=1e-5)
    assert losses["nf4"] != pytest.approx(losses[None], rel=1e-3)

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from doratune.adapter import load_adapter
from doratune.adapter.enable import FastDoraVariant
from doratune.base import load_base
from doratune.data.questions import Questions
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import AdapterOrigin
from doratune.ship.export.peft import write_peft
from doratune.ship.task import Task
from tests.ship.export.runs import card_of, recipe_for, subject_of
from tests.tiny import tiny_tokenizer


def test_stock_peft_loads_it_to_the_same_logits(base: Path, run: RunFolder, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write_peft(subject_of(run, recipe_for(base)), folder)
    code = (
        "import sys, torch, warnings\n"
        "warnings.simplefilter('error', UserWarning)\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"base = AutoModelForCausalLM.from_pretrained({str(base)!r})\n"
        f"model = PeftModel.from_pretrained(base, {str(folder)!r}).eval()\n"
        "assert 'doratune' not in sys.modules\n"
        f"ids = torch.tensor([{tiny_tokenizer()('fees paid').input_ids}])\n"
        "print(' '.join(str(x) for x in model(ids).logits[0, -1, :8].tolist()))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = torch.tensor([float(x) for x in result.stdout.split()])
    sidecar = load_adapter(load_base(base, "float32"), run.adapter)
    with torch.no_grad():
        expected = sidecar(torch.tensor([tiny_tokenizer()("fees paid").input_ids])).logits[
            0, -1, :8
        ]
        plain = load_base(base, "float32")(torch.tensor([tiny_tokenizer()("fees paid").input_ids]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (plain.logits[0, -1, :8] - found).abs().max() > 0.1


def test_the_test_split_is_asked_in_stock_peft(base: Path, run: RunFolder, tmp_path: Path) -> None:
    asked: list[bool] = []

    def answer(model: Any, description: str) -> list[bool]:
        asked.append(any(isinstance(m, FastDoraVariant) for layer in model.modules()
                         for m in getattr(layer, "lora_variant", {}).values()))  # fmt: skip
        return [True, False, True]

    questions = Questions([[1]] * 3, ["a"] * 3, [[2]] * 3, None, [])
    subject = subject_of(run, recipe_for(base), task=Task(questions, answer))
    written = write_peft(subject, tmp_path)
    assert asked == [True, False]
    assert written.tasks[0].what == "PEFT's own layers"
    text = card_of(subject, "peft", tmp_path, written)
    assert "2 of 3 with the trained model, 2 with PEFT's own layers" in text


def test_what_is_in_the_folder(base: Path, run: RunFolder, tmp_path: Path) -> None:
    (run.adapter / "README.md").write_text("written by a trainer")
    (run.adapter / "tokenizer.json").write_text("{}")
    recipe = recipe_for(base)
    write_peft(subject_of(run, recipe), tmp_path)
    names = {file.name for file in tmp_path.iterdir()} - {"run"}
    assert names == {
        "LICENSE", "tokenizer.json", "doratune.json", "adapter_config.json",
        "adapter_model.safetensors",
    }  # fmt: skip
    for name in ("adapter_model.safetensors", "adapter_config.json", "doratune.json"):
        assert (tmp_path / name).read_bytes() == (run.adapter / name).read_bytes()
    assert AdapterOrigin.read(tmp_path / "doratune.json").method == "dora"

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from doratune.base import load_base, load_tokenizer
from doratune.errors import ModelError
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_model(tiny_base: Path) -> None:
    model = load_base(tiny_base)
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, tiny_model()(ids).logits)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype(tiny_base: Path, dtype: str) -> None:
    assert load_base(tiny_base, dtype).dtype == getattr(torch, dtype)


def test_unknown_dtype(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match="dtype is 'float8'; expected one of auto, float32, bf"):
        load_base(tiny_base, "float8")


def test_quiet_and_leaves_the_logger_as_it_was(
    tiny_base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_base(tiny_base)
    load_tokenizer(tiny_base)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_missing_tensor(base_copy: Path) -> None:
    tensors = load_file(base_copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks tensors .*1 in all: model.layers.1.mlp.up_proj.w"):
        load_base(base_copy)


def test_config_of_another_model(base_copy: Path) -> None:
    edit(base_copy / "config.json", intermediate_size=64)
    message = "'model.layers.0.mlp.down_proj.weight' with the shape (32, 48), where its config"
    with pytest.raises(ModelError, match=re.escape(message) + r".* describes \(32, 64\)"):
        load_base(base_copy)


def test_unknown_architecture(base_copy: Path) -> None:
    edit(base_copy / "config.json", model_type="foo")
    with pytest.raises(ModelError, match=r"causal language model: .* model type `foo`.* Expected"):
        load_base(base_copy)


def test_not_a_language_model(base_copy: Path) -> None:
    edit(base_copy / "config.json", model_type="vit")
    with pytest.raises(ModelError, match=r"Unrecognized configuration class .*ViTConfig") as caught:
        load_base(base_copy)
    assert len(str(caught.value)) < 600


def test_code_of_the_checkpoint_is_never_run(base_copy: Path, tmp_path: Path) -> None:
    classes = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    edit(base_copy / "config.json", model_type="foo", auto_map=classes)
    (base_copy / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="contains custom code"):
        load_base(base_copy)
    assert not (tmp_path / "ran").exists()


def test_damaged_config(base_copy: Path) -> None:
    (base_copy / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json' is not a valid JSON file. Expected"):
        load_base(base_copy)


def test_damaged_weights(base_copy: Path) -> None:
    file = base_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"copy/model.safetensors is not a whole safetensors file"):
        load_base(base_copy)


def test_tokenizer(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    text = "The fees paid in 2024.<|im_end|>"
    assert tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
    assert tokenizer.pad_token == "<|im_end|>"


def test_eos_stands_in_for_pad(base_copy: Path) -> None:
    edit(base_copy / "tokenizer_config.json", pad_token=None, eos_token="<|im_start|>")
    assert load_tokenizer(base_copy).pad_token == "<|im_start|>"


def test_neither_pad_nor_eos(base_copy: Path) -> None:
    edit(base_copy / "tokenizer_config.json", pad_token=None, eos_token=None)
    with pytest.raises(ModelError, match=r"copy has neither a pad nor an eos token\. Name one"):
        load_tokenizer(base_copy)


@pytest.mark.parametrize(
    ("text", "message"), [("{", r"JSONDecodeError\): Expecting"), ('{"a": 1}', r"KeyError\): 'add")]
)
def test_damaged_tokenizer(base_copy: Path, text: str, message: str) -> None:
    (base_copy / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=rf"tokenizer in .*copy cannot be loaded \({message}"):
        load_tokenizer(base_copy)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_float32_where_the_cpu_has_no_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: str
) -> None:
    path = save_tiny(tmp_path / "base", torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("doratune.base.load._cpu_computes", lambda dtype: has_bf16)
    assert str(load_base(path).dtype) == f"torch.{expected}"
    assert str(load_base(path, "bfloat16").dtype) == "torch.bfloat16"


def test_rows_that_bitsandbytes_reads_wrong_on_a_cpu(tmp_path: Path) -> None:
    """Blocks of 64 in rows of 48: its kernel gives other weights than were quantised."""
    bnb = pytest.importorskip("bitsandbytes.functional")
    W = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    packed, state = bnb.quantize_4bit(W, quant_type="nf4")
    wrong = bnb.dequantize_4bit(packed, state)
    state.shape = torch.Size([1, W.numel()])
    right = bnb.dequantize_4bit(packed, state).view_as(W)
    assert (right - W).norm() < 0.1 * W.norm() < 0.15 * W.norm() < (wrong - W).norm()
    base = save_tiny(tmp_path / "base", hidden_size=64, intermediate_size=48)
    with pytest.raises(ModelError, match=r"down_proj has rows of 48 weights\. On a CPU, bitsandb"):
        load_base(base, "float32", "nf4")

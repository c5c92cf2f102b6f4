from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import GgufConfig

from doratune.base import load_base, load_tokenizer
from doratune.base.gguf_checkpoint import convert_gguf
from tests.base.tiny_gguf import write_tiny_gguf
from tests.tiny import CHATML, tiny_tokenizer


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("gguf")
    file = write_tiny_gguf(folder / "tiny.gguf", tied=request.param)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    convert_gguf(file, checkpoint)
    return file, checkpoint, request.param


def test_weights_are_those_that_transformers_reads(pair: tuple) -> None:
    file, checkpoint, tied = pair
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    for parameter in theirs.parameters():
        parameter.data = parameter.data.bfloat16().float()
    expected = theirs.state_dict()
    if tied:
        del expected["lm_head.weight"]
    found = load_file(checkpoint / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name].float(), weight), name
    ids = torch.arange(40)[None]
    ours = load_base(checkpoint, "float32")
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_config(pair: tuple) -> None:
    _, checkpoint, tied = pair
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100000.0
    assert (config["head_dim"], config["num_key_value_heads"], config["vocab_size"]) == (16, 2, 402)
    assert config["tie_word_embeddings"] is tied
    assert config["dtype"] == "bfloat16"
    model = load_base(checkpoint)
    assert model.generation_config.eos_token_id == model.generation_config.pad_token_id == 1


def test_tokenizer(pair: tuple) -> None:
    tokenizer = load_tokenizer(pair[1])
    original = tiny_tokenizer()
    text = "The supplier's total liability <|im_end|>\nNothing  in this été 東"
    assert tokenizer(text).input_ids == original(text).input_ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert original.tokenize("in 0123") == ["in", "Ġ01", "23"]
    assert tokenizer.tokenize("in 0123") == ["in", "Ġ", "0", "1", "2", "3"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 1)
    assert tokenizer.model_max_length == 512
    settings = json.loads((pair[1] / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == CHATML
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    capfd.readouterr()
    (tmp_path / "out").mkdir()
    convert_gguf(file, tmp_path / "out")
    load_base(tmp_path / "out")
    load_tokenizer(tmp_path / "out")
    assert capfd.readouterr() == ("", "")

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from doratune.errors import ModelError, StorageError
from doratune.ship.export.gguf_file import Labels, check_gguf, write_gguf
from tests.ship.adapters import edit_config, edit_tensors
from tests.ship.export.models import save_family
from tests.ship.export.tokenizers import TEXTS, byte_level

LABELS = Labels("tiny", "apache-2.0", "f" * 64, "a" * 64)
KINDS = ("f32", "f16", "bf16", "q8_0")


def tokens() -> torch.Tensor:
    return torch.randint(0, 400, (1, 33), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["smollm", "llama2", "mistral", "qwen2"])
def test_transformers_reads_the_same_model_back(name: str, tmp_path: Path) -> None:
    """An independent reader: its own table of names, its own order of rows.

    It does not read the head size of Qwen3; llama.cpp does, in test_in_llama.py.
    """
    source = save_family(name, tmp_path / "source")
    if name == "qwen2":  # transformers reads no YaRN from GGUF
        edit_config(source / "config.json", rope_parameters={"rope_theta": 10000.0})
    (tmp_path / "out").mkdir()
    write_gguf(source, tmp_path / "out" / "m.gguf", "f32", LABELS)
    found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out",
        gguf_file="m.gguf",
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).eval()
    expected = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            found(tokens()).logits, expected(tokens()).logits, rtol=1e-5, atol=1e-5
        )


def test_transformers_reads_the_same_tokenizer_back(tmp_path: Path) -> None:
    source = save_family("qwen2", tmp_path / "source")
    (tmp_path / "out").mkdir()
    write_gguf(source, tmp_path / "out" / "m.gguf", "f32", LABELS)
    found = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="m.gguf")
    expected = AutoTokenizer.from_pretrained(source)
    assert found.chat_template == expected.chat_template
    for text in TEXTS:
        assert found(text).input_ids == expected(text).input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_every_precision_reads_back(kind: str, tmp_path: Path) -> None:
    source = save_family("smollm", tmp_path / "source")
    write_gguf(source, tmp_path / "m.gguf", kind, LABELS)  # type: ignore[arg-type]
    assert check_gguf(source, tmp_path / "m.gguf", kind) == 20  # type: ignore[arg-type]
    tensors = {t.name: t for t in GGUFReader(tmp_path / "m.gguf").tensors}
    stored = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}[kind]
    assert tensors["token_embd.weight"].tensor_type.name == stored
    assert tensors["blk.1.ffn_down.weight"].tensor_type.name == stored
    assert tensors["blk.1.attn_norm.weight"].tensor_type.name == "F32"
    assert "output.weight" not in tensors  # tied


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_value_is_found(kind: str, tmp_path: Path) -> None:
    source = save_family("smollm", tmp_path / "source")
    write_gguf(source, tmp_path / "m.gguf", kind, LABELS)  # type: ignore[arg-type]
    name = "model.layers.1.mlp.down_proj.weight"
    weight = load_file(source / "model.safetensors")[name]
    weight[5, 7] += 0.02 * weight.abs().max()
    edit_tensors(source / "model.safetensors", **{name: weight})
    with pytest.raises(
        StorageError, match=r"holds blk\.1\.ffn_down\.weight with a value [\d.e-]+ further from"
    ):
        check_gguf(source, tmp_path / "m.gguf", kind)  # type: ignore[arg-type]


def test_a_missing_tensor_is_found(tmp_path: Path) -> None:
    source = save_family("smollm", tmp_path / "source")
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(StorageError, match=r"holds other tensors than it should, such as blk\.0"):
        check_gguf(source, tmp_path / "m.gguf", "f32")


def test_settings_and_labels(tmp_path: Path) -> None:
    source = save_family("qwen2", tmp_path / "source")
    write_gguf(source, tmp_path / "m.gguf", "q8_0", LABELS)
    keys = {n: f.contents() for n, f in GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert keys["general.architecture"] == "qwen2"
    assert keys["general.name"] == "tiny"
    assert keys["general.license"] == "apache-2.0"
    assert keys["general.file_type"] == 7
    assert keys["doratune.base_fingerprint"] == "f" * 64
    assert keys["qwen2.rope.scaling.type"] == "yarn"
    assert keys["qwen2.rope.scaling.factor"] == 4
    assert keys["qwen2.rope.scaling.original_context_length"] == 64
    assert keys["qwen2.context_length"] == 256
    assert keys["qwen2.attention.head_count_kv"] == 2


def test_llama_3s_frequencies(tmp_path: Path) -> None:
    """Each factor by hand: long waves by 8, short ones as they are, between them interpolated."""
    source = save_family("llama3", tmp_path / "source")
    write_gguf(source, tmp_path / "m.gguf", "f32", LABELS)
    check_gguf(source, tmp_path / "m.gguf", "f32")
    found = next(
        t for t in GGUFReader(tmp_path / "m.gguf").tensors if t.name == "rope_freqs.weight"
    )
    expected = []
    for i in range(8):
        wave = 2 * np.pi * 10000 ** (2 * i / 16)
        smooth = (64 / wave - 1) / (4 - 1)
        between = 1 / ((1 - smooth) / 8 + smooth)
        expected.append(1 if wave < 64 / 4 else 8 if wave > 64 else between)
    assert {1, 8} < set(expected)
    np.testing.assert_allclose(found.data, expected, rtol=1e-5)


def test_a_sliding_window_ends_the_context(tmp_path: Path) -> None:
    source = save_family("mistral", tmp_path / "source")
    edit_config(source / "config.json", sliding_window=100)
    write_gguf(source, tmp_path / "m.gguf", "f32", LABELS)
    field = GGUFReader(tmp_path / "m.gguf").fields["llama.context_length"]
    assert field.contents() == 100


def test_rows_that_are_no_multiple_of_32_are_kept_in_f16(tmp_path: Path) -> None:
    source = save_family("smollm", tmp_path / "source")
    edit_config(source / "config.json", intermediate_size=80)
    tensors = load_file(source / "model.safetensors")
    for layer in (0, 1):
        mlp = f"model.layers.{layer}.mlp"
        edit_tensors(source / "model.safetensors", **{
            f"{mlp}.down_proj.weight": tensors[f"{mlp}.down_proj.weight"][:, :80],
            f"{mlp}.up_proj.weight": tensors[f"{mlp}.up_proj.weight"][:80],
            f"{mlp}.gate_proj.weight": tensors[f"{mlp}.gate_proj.weight"][:80],
        })  # fmt: skip
    write_gguf(source, tmp_path / "m.gguf", "q8_0", LABELS)
    check_gguf(source, tmp_path / "m.gguf", "q8_0")
    found = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "m.gguf").tensors}
    assert found["blk.0.ffn_down.weight"] == "F16"
    assert found["blk.0.ffn_up.weight"] == "Q8_0"


def test_values_beyond_f16_are_refused(tmp_path: Path) -> None:
    source = save_family("smollm", tmp_path / "source")
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(
        source / "model.safetensors",
        **{name: 1e6 * load_file(source / "model.safetensors")[name]},
    )
    with pytest.raises(
        ModelError, match=r"up_proj\.weight holds values up to \d+, and f16 ends at"
    ):
        write_gguf(source, tmp_path / "m.gguf", "f16", LABELS)
    write_gguf(source, tmp_path / "m.gguf", "bf16", LABELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, r"names GPT2LMHeadModel; GGUF files are written for"),
        ({"hidden_act": "gelu"}, r"sets hidden_act to 'gelu'; GGUF files are written for 'silu'"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            r"sets rope_type to 'dynamic'",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                 "partial_rotary_factor": 0.5}},
            r"sets partial_rotary_factor to 0\.5",
        ),
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    source = save_family("smollm", tmp_path / "source")
    edit_config(source / "config.json", **change)
    with pytest.raises(ModelError, match=message):
        write_gguf(source, tmp_path / "m.gguf", "f32", LABELS)


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    source = save_family("smollm", tmp_path / "source")
    edit_tensors(source / "model.safetensors", model__layers__0__extra__weight=torch.zeros(4, 4))
    with pytest.raises(
        ModelError, match=r"holds the tensor model\.layers\.0\.extra\.weight, which"
    ):
        write_gguf(source, tmp_path / "m.gguf", "f32", LABELS)


def test_stored_frequencies_of_old_checkpoints_are_left_out(tmp_path: Path) -> None:
    source = save_family("smollm", tmp_path / "source")
    edit_tensors(
        source / "model.safetensors",
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(8),
    )
    write_gguf(source, tmp_path / "m.gguf", "f32", LABELS)
    check_gguf(source, tmp_path / "m.gguf", "f32")


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    """The peak of memory grows with the largest tensor, not with the model."""
    config = LlamaConfig(
        vocab_size=448, hidden_size=512, intermediate_size=2048, num_hidden_layers=12,
        num_attention_heads=8, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    source = tmp_path / "source"
    LlamaForCausalLM(config).save_pretrained(source)
    byte_level("smollm").save_pretrained(source)
    size = (source / "model.safetensors").stat().st_size
    code = (
        "import threading, torch\n"
        "torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from doratune.ship.export.gguf_file import Labels, write_gguf\n"
        "def anonymous():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return int(next(l for l in lines if l.startswith('RssAnon')).split()[1])\n"
        "peak, done = 0, threading.Event()\n"
        "def watch():\n"
        "    global peak\n"
        "    while not done.wait(0.005):\n"
        "        peak = max(peak, anonymous())\n"
        "before = anonymous()\n"
        "watcher = threading.Thread(target=watch)\n"
        "watcher.start()\n"
        f"source = Path({str(source)!r})\n"
        "write_gguf(source, source / 'm.gguf', 'q8_0', Labels('n', None, 'b', 'a'))\n"
        "done.set()\n"
        "watcher.join()\n"
        "print(peak - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak = int(done.stdout.split()[-1]) * 1024
    assert size > 190e6
    assert 0 < peak < 80e6  # the largest tensor takes 4 MB, and its packing some copies of it

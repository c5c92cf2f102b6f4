from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from doratune.base.tensors import tensor_files
from doratune.errors import AdapterError, ModelError, StorageError
from doratune.ship.merging.checkpoint import read_tensor
from doratune.ship.merging.merge import merge
from tests.ship.adapters import edit_config, edit_tensors, peft_merged, save_adapter, write_origin
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

# 16 roundings of float32; the arithmetic of one weight takes some 3.
RELATIVE = 16 * 2**-24
Q_PROJ = "base_model__model__model__layers__0__self_attn__q_proj__"


def assert_is_peft_merge(base: Path, adapter: Path, merged: Path) -> None:
    truth, found = peft_merged(base, adapter), load_file(merged / "model.safetensors")
    saved = json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"]
    untied = {"lm_head.weight"} if saved else set()
    assert found.keys() == load_file(base / "model.safetensors").keys() | untied
    for name, tensor in found.items():
        expected = truth[name if name in truth else f"transformer.{name}"]
        error = (tensor.double() - expected).abs().max()
        assert error <= RELATIVE * expected.abs().max(), name


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_dora": False},
        {"use_rslora": True, "r": 7},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3}},
        {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["embed_tokens"]},
    ],
)
def test_merge_equals_peft_in_float64(
    base: Path, tmp_path: Path, config: dict[str, object]
) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", **config)
    if "modules_to_save" in config:
        file = adapter / "adapter_model.safetensors"
        key = "base_model.model.model.embed_tokens.weight"
        edit_tensors(file, **{key.replace(".", "__"): 2 * load_file(file)[key]})
    counts = merge(base, adapter, tmp_path / "merged", "float32")
    assert_is_peft_merge(base, adapter, tmp_path / "merged")
    changed = 5 if "modules_to_save" in config else 14
    assert counts.num_merged_tensors == changed
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert counts.num_copied_tensors == len(found) - changed
    assert counts.num_bytes == sum(t.nbytes for t in found.values())


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_conv1d_layers_and_checkpoints_without_prefix(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_positions=64, n_embd=12, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    save_file(
        {prefix + name.removeprefix("transformer."): tensor for name, tensor in tensors.items()},
        file,
        metadata={"format": "pt"},
    )
    config = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    adapter = save_adapter(tmp_path / "base", tmp_path / "adapter", **config)
    merge(tmp_path / "base", adapter, tmp_path / "merged", "float32")
    assert_is_peft_merge(tmp_path / "base", adapter, tmp_path / "merged")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_once_from_float32(base: Path, adapter: Path, tmp_path: Path, dtype: str) -> None:
    merge(base, adapter, tmp_path / "full", "float32")
    counts = merge(base, adapter, tmp_path / "half", dtype)
    full = load_file(tmp_path / "full" / "model.safetensors")
    half = load_file(tmp_path / "half" / "model.safetensors")
    for name, tensor in full.items():
        assert torch.equal(half[name], tensor.to(getattr(torch, dtype))), name
    assert counts.num_bytes == sum(t.nbytes for t in half.values())
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == dtype
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "half")
    assert loaded.dtype == getattr(torch, dtype)


def test_shards_stay_shards(base: Path, adapter: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    tiny_model().save_pretrained(sharded, max_shard_size="30KB")
    tiny_tokenizer().save_pretrained(sharded)
    assert len(set(tensor_files(sharded).values())) > 2
    merge(base, adapter, tmp_path / "one", "bfloat16")
    merge(sharded, adapter, tmp_path / "many", "bfloat16")
    before = json.loads((sharded / "model.safetensors.index.json").read_text())
    after = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert after["weight_map"] == before["weight_map"]
    assert after["metadata"]["total_size"] == before["metadata"]["total_size"] // 2
    one, many = tensor_files(tmp_path / "one"), tensor_files(tmp_path / "many")
    assert one.keys() == many.keys()
    for name in one:
        assert torch.equal(read_tensor(one, name), read_tensor(many, name))


def test_loads_in_plain_transformers(base: Path, adapter: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merge(base, adapter, merged, "float32")
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(merged)!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(merged)!r})\n"
        "assert 'doratune' not in sys.modules\n"
        "assert tokenizer.chat_template\n"
        "logits = model(torch.tensor([tokenizer('fees paid').input_ids])).logits[0, -1]\n"
        "print(' '.join(str(x) for x in logits[:5].tolist()))\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    model = LlamaForCausalLM.from_pretrained(base).double()
    model.load_state_dict(peft_merged(base, adapter), strict=False)
    ids = torch.tensor([tiny_tokenizer()("fees paid").input_ids])
    expected = model(ids).logits[0, -1, :5].tolist()
    assert [float(x) for x in result.stdout.split()] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_what_else_is_in_the_folder(base: Path, adapter: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base, tmp_path / "base")
    for name in ("pytorch_model.bin", "model.gguf", "doratune.json", "README.md", ".cache"):
        (source / name).write_text("x")
    (source / "onnx").mkdir()
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "adapter_config.json").write_text("an older try")
    merge(source, adapter, tmp_path / "merged", "float32")
    names = {file.name for file in (tmp_path / "merged").iterdir()}
    assert names == {file.name for file in base.iterdir()}
    assert {"LICENSE", "tokenizer.json", "chat_template.jinja", "config.json"} <= names
    with safe_open(tmp_path / "merged" / "model.safetensors", framework="pt") as tensors:
        assert tensors.metadata() == {"format": "pt"}
    modes = {oct(file.stat().st_mode) for file in (tmp_path / "merged").iterdir()}
    assert len(modes) == 1  # readable by those who can read config.json


def test_a_fully_fine_tuned_model_is_copied_and_cast(base: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "adapter"
    tiny_model(seed=3).save_pretrained(tuned)
    write_origin(base, tuned, "full")
    counts = merge(base, tuned, tmp_path / "merged", "bfloat16")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    for name, tensor in load_file(tuned / "model.safetensors").items():
        assert torch.equal(found[name], tensor.bfloat16())
    assert (counts.method, counts.num_copied_tensors) == ("full", 0)
    assert counts.num_merged_tensors == len(found)
    names = {file.name for file in (tmp_path / "merged").iterdir()}
    assert names >= {"tokenizer.json", "LICENSE"}
    assert "doratune.json" not in names


def assert_refused(
    base: Path, adapter: Path, target: Path, error: type, match: str, dtype: str = "float16"
) -> None:
    """The merge fails, and what was in the target's place before is what is there after."""
    target.mkdir()
    (target / "old").write_text("before")
    around = set(target.parent.rglob("*"))
    with pytest.raises(error, match=match):
        merge(base, adapter, target, dtype)
    assert set(target.parent.rglob("*")) == around
    assert (target / "old").read_text() == "before"


def test_a_misshapen_layer_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(adapter, tmp_path / "adapter")
    edit_tensors(
        broken / "adapter_model.safetensors", **{f"{Q_PROJ}lora_A__weight": torch.ones(4, 31)}
    )
    match = re.escape(
        "layer model.layers.0.self_attn.q_proj: the adapter fits a weight of shape (32, 31), but "
        "the base's has (32, 32)"
    )
    assert_refused(base, broken, tmp_path / "merged", AdapterError, match)


def test_a_misshapen_saved_module_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(adapter, tmp_path / "adapter")
    edit_tensors(
        broken / "adapter_model.safetensors",
        base_model__model__model__norm__weight=torch.ones(31),
    )
    edit_config(broken / "adapter_config.json", modules_to_save=["norm"])
    match = re.escape("holds model.norm.weight whole, with shape (31,); the base's has (32,)")
    assert_refused(base, broken, tmp_path / "merged", AdapterError, match)


def test_a_lost_magnitude_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(adapter, tmp_path / "adapter")
    edit_tensors(broken / "adapter_model.safetensors", **{f"{Q_PROJ}lora_magnitude_vector": None})
    assert_refused(
        base, broken, tmp_path / "merged", AdapterError, "there is no lora_magnitude_vector"
    )


def test_a_wrong_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=5)
    assert_refused(other, adapter, tmp_path / "merged", AdapterError, "works on its own base only")


def test_a_value_beyond_the_precision_is_refused(base: Path, tmp_path: Path) -> None:
    large = shutil.copytree(base, tmp_path / "base")
    edit_tensors(large / "model.safetensors", model__norm__weight=torch.full((32,), 70000.0))
    adapter = save_adapter(large, tmp_path / "adapter")
    match = r"model\.norm\.weight holds values up to 70000, and torch\.float16 ends at 65504"
    assert_refused(large, adapter, tmp_path / "merged", ModelError, match)


def test_a_quantised_layer_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", magnitude_spread=0.02)
    (adapter / "doratune.json").unlink()
    packed = shutil.copytree(base, tmp_path / "base")
    edit_tensors(
        packed / "model.safetensors",
        model__layers__0__self_attn__q_proj__weight=torch.zeros(512, 1, dtype=torch.uint8),
    )
    match = r"base weight of model\.layers\.0\.self_attn\.q_proj is stored as U8"
    assert_refused(packed, adapter, tmp_path / "merged", ModelError, match)


def test_too_little_space_is_found_before_work(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    needed = sum(t.nbytes for t in load_file(base / "model.safetensors").values()) // 2 + 64 * 2**20
    match = f"takes {needed} bytes, but .* has 1000 left"
    assert_refused(base, adapter, tmp_path / "merged", StorageError, match)


def test_a_disk_that_fills_up_leaves_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    """A real write error from the operating system: files may not grow beyond 40 000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        match = r"model\.safetensors of the merged model could not be written to .*File too large"
        assert_refused(base, adapter, tmp_path / "merged", StorageError, match, "float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_config_keeps_the_rest(base: Path, adapter: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base, tmp_path / "base")
    edit_config(source / "config.json", note="kept")
    merge(source, adapter, tmp_path / "merged", "float32")
    before = json.loads((source / "config.json").read_text())
    after = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert after == {**before, "dtype": "float32", "torch_dtype": "float32"}

"""What does merging cost, against a plain copy of the same files, both until the disk has them?

The base is a Llama-like checkpoint in bf16 of random numbers, in shards, with DoRA of rank 16 on all
linear layers; its fingerprint is known, as it is whenever a run merges. The copy is `shutil.copyfile`
of every file, then fsync of each. Both files are in the page cache before. Before the first turn the
merged weights of a block are compared with float64.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.parts import gate
from benchmarks.parts.rows import OURS, Row, rows_of
from benchmarks.parts.timing import Action, take_turns
from doratune.adapter.origin import file_digests
from doratune.base import fingerprint
from doratune.base.tensors import tensor_files
from doratune.record.schemas import ORIGIN, AdapterOrigin
from doratune.ship.merging.checkpoint import read_tensor
from doratune.ship.merging.merge import merge

SECONDS = 90
COPY = "plain copy"
RANK, ALPHA = 16, 32
_PREFIX = "base_model.model."


class Setting(NamedTuple):
    """A checkpoint."""

    num_layers: int
    hidden: int = 2048
    inner: int = 5632
    vocabulary: int = 32000

    def layer_shapes(self) -> dict[str, tuple[int, int]]:
        """(out_features, in_features) of one decoder layer's matrices."""
        H, F, KV = self.hidden, self.inner, self.hidden // 8
        attention = {"q_proj": (H, H), "k_proj": (KV, H), "v_proj": (KV, H), "o_proj": (H, H)}
        mlp = {"gate_proj": (F, H), "up_proj": (F, H), "down_proj": (H, F)}
        return {
            **{f"self_attn.{name}": shape for name, shape in attention.items()},
            **{f"mlp.{name}": shape for name, shape in mlp.items()},
        }

    def __str__(self) -> str:
        layer = sum(out * into for out, into in self.layer_shapes().values())
        size = 2 * (self.num_layers * layer + 2 * self.vocabulary * self.hidden)
        return f"{self.num_layers} layers of TinyLlama's shape, {size / 1e9:.2g} GB"


def settings(device: str, quick: bool) -> list[Setting]:
    """One."""
    return [Setting(2, 64, 96, 400) if quick else Setting(12)]


def measure(setting: Setting, device: str, seconds: float) -> list[Row]:
    """Rows of one setting."""
    with tempfile.TemporaryDirectory(prefix="merge-") as temporary:
        folder = Path(temporary)
        os.environ["DORATUNE_CACHE"] = str(folder / "cache")
        base, adapter = write_base(setting, folder / "base"), folder / "adapter"
        write_adapter(setting, base, adapter)
        old = 1.0  # older than what a fingerprint may be remembered of
        for file in base.iterdir():
            os.utime(file, (old, old))
        fingerprint(base)
        merge(base, adapter, folder / "merged", "bfloat16")
        check(setting, base, adapter, folder / "merged")
        shutil.rmtree(folder / "merged")
        actions = {
            COPY: Action(
                lambda: copy(base, folder / "copy"), lambda: shutil.rmtree(folder / "copy")
            ),
            OURS: Action(
                lambda: merge(base, adapter, folder / "merged", "bfloat16"),
                lambda: shutil.rmtree(folder / "merged"),
            ),
        }
        samples = take_turns(actions, seconds, device)
    return rows_of(
        samples,
        benchmark="merge",
        op="merge",
        shape=str(setting),
        dtype="bfloat16",
        dropout=0.0,
        metric="merge",
        unit="s",
        device=device,
        peers=(COPY,),
    )


def copy(source: Path, target: Path) -> None:
    """Copies the files of a folder, and waits for the disk."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, target / file.name)
        descriptor = os.open(target / file.name, os.O_RDWR)
        os.fsync(descriptor)
        os.close(descriptor)


def write_base(setting: Setting, folder: Path) -> Path:
    """A checkpoint in two shards."""
    torch.manual_seed(0)
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    embedding = (setting.vocabulary, setting.hidden)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": embedding,
        "model.norm.weight": (setting.hidden,),
    }
    for n in range(setting.num_layers):
        for name, shape in setting.layer_shapes().items():
            shapes[f"model.layers.{n}.{name}.weight"] = shape
    names = sorted(shapes)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    files = {}
    for number, half in enumerate(halves, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        tensors = {name: (0.02 * torch.randn(shapes[name])).bfloat16() for name in half}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(half, file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_adapter(setting: Setting, base: Path, folder: Path) -> None:
    """A DoRA adapter for all its linear layers, with the record of what it was trained on."""
    torch.manual_seed(1)
    folder.mkdir()
    files = tensor_files(base)
    tensors: dict[str, Tensor] = {}
    for n in range(setting.num_layers):
        for name, (num_out, num_in) in setting.layer_shapes().items():
            layer = f"model.layers.{n}.{name}"
            norms = read_tensor(files, f"{layer}.weight").float().norm(dim=1)
            key = _PREFIX + layer
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, num_in) / num_in**0.5
            tensors[f"{key}.lora_B.weight"] = 0.005 * torch.randn(num_out, RANK)
            spread = 1 + 0.02 * (2 * torch.rand(num_out) - 1)
            tensors[f"{key}.lora_magnitude_vector"] = norms * spread
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "use_dora": True,
        "target_modules": [name.rpartition(".")[2] for name in setting.layer_shapes()],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    AdapterOrigin(
        method="dora",
        base_source="base",
        base_fingerprint=fingerprint(base),
        data_digest="",
        data_ordered_digest="",
        split_digests={},
        recipe_digest="",
        doratune="",
        files=file_digests(folder),
    ).write(folder / ORIGIN)


def check(setting: Setting, base: Path, adapter: Path, merged: Path) -> None:
    """The first and the last layer against float64: float32's arithmetic, rounded once to bf16."""
    before, after = tensor_files(base), tensor_files(merged)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for n in {0, setting.num_layers - 1}:
        for name in setting.layer_shapes():
            layer = f"model.layers.{n}.{name}"
            A, B, m = (
                tensors[f"{_PREFIX}{layer}.{part}"].double()
                for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
            )
            V = read_tensor(before, f"{layer}.weight").double() + ALPHA / RANK * B @ A
            expected = m[:, None] * V / V.norm(dim=1, keepdim=True)
            found = read_tensor(after, f"{layer}.weight").double()
            excess = (found - expected).abs() - 2.0**-8 * expected.abs()
            if not excess.max() <= 16 * 2.0**-24 * expected.abs().max():
                raise gate.RedGateError(f"{layer} is {excess.max():.3g} beyond its rounding")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if not torch.equal(read_tensor(before, name), read_tensor(after, name)):
            raise gate.RedGateError(f"{name} is no copy")

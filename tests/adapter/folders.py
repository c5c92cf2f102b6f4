"""Adapter folders, and ways to spoil them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from doratune.adapter.origin import file_digests
from doratune.base import fingerprint
from doratune.record.schemas import ORIGIN, AdapterOrigin
from tests.adapter.models import with_dora
from tests.tiny import tiny_model

Q = "base_model.model.model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


def save_adapter(folder: Path, **config: object) -> Path:
    """A trained-looking adapter of `tiny_model`, as PEFT writes it."""
    with_dora(tiny_model(), trained=True, **config).save_pretrained(folder)
    return folder


def write_origin(folder: Path, base_path: Path, **values: object) -> None:
    """The record with which doratune's training leaves an adapter."""
    settings: dict[str, object] = {
        "method": "dora",
        "base_source": "the/base",
        "base_fingerprint": fingerprint(base_path),
        "data_digest": "d",
        "data_ordered_digest": "o",
        "split_digests": {"train": "t"},
        "recipe_digest": "r",
        "doratune": "0",
        "files": file_digests(folder),
    }
    AdapterOrigin(**{**settings, **values}).write(folder / ORIGIN)


def edit_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)


def edit_config(folder: Path, **values: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

"""Adapters as PEFT itself writes them, far from the identity."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from doratune.base import fingerprint, load_base
from doratune.record.schemas import AdapterOrigin


def randomise(model: PeftModel, magnitude_spread: float = 0.3) -> PeftModel:
    """Gives B random values, and each magnitude a factor within 1 +- ``magnitude_spread``."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
            elif "lora_magnitude" in name:
                parameter *= 1 + magnitude_spread * (2 * torch.rand_like(parameter) - 1)
    return model


def peft_model(base: PreTrainedModel, **config: object) -> PeftModel:
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "use_dora": True}
    return get_peft_model(base, LoraConfig(**{**settings, **config}))


def save_adapter(
    base_path: Path, path: Path, magnitude_spread: float = 0.3, **config: object
) -> Path:
    """Writes a random DoRA adapter with the record of what base it belongs to."""
    model = randomise(peft_model(load_base(base_path, "float32"), **config), magnitude_spread)
    model.save_pretrained(str(path))
    write_origin(base_path, path, "dora" if config.get("use_dora", True) else "lora")
    return path


def write_origin(base_path: Path, path: Path, method: str) -> None:
    AdapterOrigin(
        method=method,
        base_source=str(base_path),
        base_fingerprint=fingerprint(base_path),
        data_digest="0",
        data_ordered_digest="0",
        split_digests={},
        recipe_digest="0",
        doratune="0",
    ).write(path / "doratune.json")


def peft_merged(base_path: Path, adapter: Path) -> dict[str, Tensor]:
    """The merged weights in float64, by PEFT: the independent truth."""
    model = PeftModel.from_pretrained(load_base(base_path, "float32").double(), str(adapter))
    model = model.double().merge_and_unload()
    return dict(model.state_dict())


def edit_tensors(path: Path, **changes: Tensor | None) -> None:
    """Rewrites one safetensors file; None removes a tensor, ``__`` in a name stands for a dot."""
    tensors = load_file(path)
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor.contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

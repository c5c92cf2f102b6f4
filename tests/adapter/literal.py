"""What an adapter folder says, read without doratune, PEFT and safetensors."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.adapter.mutations import CONFIG, START, WEIGHTS

_DTYPES = {"F32": np.float32, "F16": np.float16}


def literal_tensors(file: Path) -> dict[str, np.ndarray]:
    """A safetensors file by its published layout, as float64."""
    data = file.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for key, entry in json.loads(data[8:end]).items():
        if key == "__metadata__":
            continue
        low, high = entry["data_offsets"]
        raw = data[end + low : end + high]
        if entry["dtype"] == "BF16":
            numbers = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            numbers = np.frombuffer(raw, _DTYPES[entry["dtype"]])
        tensors[key] = numbers.astype(np.float64).reshape(entry["shape"])
    return tensors


def literal_model(folder: Path, base: nn.Module) -> nn.Module:
    """The base in float64 with ``W' = m (W + s B A) / ‖W + s B A‖`` in its adapted layers."""
    model = base.double()
    weights = dict(model.named_parameters())
    config = json.loads((folder / CONFIG).read_text())
    tensors = literal_tensors(folder / WEIGHTS)
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        layer = key.removeprefix(START).removesuffix(".lora_A.weight")
        A, B = tensors[key], tensors[key.replace("lora_A", "lora_B")]
        alpha = config["lora_alpha"]
        for pattern, own in (config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                alpha = own
                break
        r = A.shape[0]
        scaling = alpha / (math.sqrt(r) if config.get("use_rslora") else r)
        W = weights[f"{layer}.weight"].detach().numpy() + scaling * B @ A
        m = tensors.get(f"{START}{layer}.lora_magnitude_vector")
        m = tensors.get(f"{START}{layer}.lora_magnitude_vector.weight") if m is None else m
        if m is not None:
            W = W * (m / np.linalg.norm(W, axis=1))[:, None]
        with torch.no_grad():
            weights[f"{layer}.weight"].copy_(torch.from_numpy(W))
    return model

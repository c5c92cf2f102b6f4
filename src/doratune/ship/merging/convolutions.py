"""Convolutions that an adapter can be merged into."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoConfig

from doratune.adapter import AdapterWeights
from doratune.adapter.conv import why_not_conv
from doratune.errors import AdapterError


def check_convolutions(base_path: Path, adapter_path: Path, adapter: AdapterWeights) -> None:
    """Makes sure that ``B A`` is a change of the weight in every adapted convolution.

    PEFT makes ``lora_A`` without the base layer's dilation, groups and padding mode (0.21.2); where a
    layer has any of these, the adapted layer is no convolution with one kernel.

    Raises:
        AdapterError: It is not, or that cannot be known.
    """
    layers = [layer for layer, delta in adapter.layers.items() if delta.kernel]
    if not layers:
        return
    model = _named_model(base_path)
    modules = dict(model.named_modules()) if model is not None else {}
    for layer in layers:
        module = modules.get(layer)
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            raise AdapterError(
                f"{adapter_path} adapts the convolution {layer}, and nothing tells its dilation and "
                "groups: transformers has no class for the model that config.json names, or the model "
                "has no such layer. Without these it cannot be merged."
            )
        if why_not_conv(module):
            raise AdapterError(
                f"{adapter_path} adapts the convolution {layer} (groups {module.groups}, dilation "
                f"{module.dilation}, padding {module.padding_mode}), into which it cannot be merged: "
                "PEFT puts another convolution beside it. Keep the adapter beside the base."
            )


def _named_model(base_path: Path) -> nn.Module | None:
    """The model of the class that config.json names, without weights."""
    names = json.loads((base_path / "config.json").read_text(encoding="utf-8")).get("architectures")
    kind = getattr(transformers, names[0], None) if names else None
    if kind is None:
        return None
    with torch.device("meta"):
        model: nn.Module = kind(AutoConfig.from_pretrained(base_path, local_files_only=True))
    return model

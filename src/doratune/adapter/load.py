"""Adapters put back onto their base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel

from doratune.adapter.enable import enable_fast_dora
from doratune.adapter.files import read_adapter
from doratune.errors import AdapterError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_adapter(base_model: PreTrainedModel, path: Path, *, trainable: bool = False) -> PeftModel:
    """Puts a LoRA or DoRA adapter folder onto a base model, on the fast layers.

    Args:
        base_model: The model the adapter was trained on; it is changed in place.
        path: Folder in PEFT's format.
        trainable: Whether the adapter is to be trained further.

    Raises:
        AdapterError: The folder is no complete adapter, or does not fit the model.
    """
    weights = read_adapter(path)
    modules = dict(base_model.named_modules())
    for layer, delta in weights.layers.items():
        module = modules.get(layer)
        if module is None:
            raise AdapterError(
                f"{path} adapts the layer {layer}, which this {type(base_model).__name__} does not "
                "have. It was trained on another base model."
            )
        expected = (delta.B.shape[0], delta.A.shape[1])
        found = tuple(module.weight.shape)
        if delta.fan_in_fan_out:
            found = found[::-1]
        if found != expected:
            raise AdapterError(
                f"{path}, layer {layer}: the adapter fits a weight of shape {expected}, but this "
                f"model's has {found}. It was trained on another base model."
            )
    model = PeftModel.from_pretrained(base_model, str(path), is_trainable=trainable)
    enable_fast_dora(model)
    return model if trainable else model.eval()

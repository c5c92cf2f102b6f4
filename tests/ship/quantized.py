"""Adapters of a quantised base, as training leaves them."""

from __future__ import annotations

from pathlib import Path

from doratune.adapter.origin import read_origin
from doratune.base import load_base
from doratune.record.schemas import ORIGIN
from tests.ship.adapters import peft_model, randomise, write_origin
from tests.tiny import save_tiny


def wide_base(path: Path) -> Path:
    """Of shapes that quantisers take."""
    return save_tiny(path, hidden_size=64, intermediate_size=128)


def save_quantized_adapter(
    base: Path, path: Path, quantize: str, spread: float = 0.05, **config: object
) -> Path:
    """A DoRA adapter over a quantised base, near enough to it that requantising costs more."""
    model = peft_model(load_base(base, "float32", quantize), **config)  # type: ignore[arg-type]
    for name, parameter in randomise(model, spread).named_parameters():
        if "lora_B" in name:
            parameter.data /= 10
    model.save_pretrained(str(path))
    write_origin(base, path, "dora")
    origin = read_origin(path)
    assert origin is not None
    origin.model_copy(update={"quantize": quantize}).write(path / ORIGIN)
    return path

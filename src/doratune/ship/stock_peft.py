"""An adapter folder in PEFT's own layers, as those load it who have no doratune."""

from __future__ import annotations

import warnings
from pathlib import Path

import peft
import torch
from peft import PeftModel

from doratune.adapter.base_weight import forbid_repacking
from doratune.adapter.config import read_config
from doratune.adapter.origin import read_origin
from doratune.base import load_base


def why_not(folder: Path) -> str | None:
    """Why PEFT cannot run an adapter of ours here; None where it can.

    DoRA reads the base weight in each forward. On a CPU PEFT then hands the layer a new parameter, and
    bitsandbytes takes its scales from there, where none are.
    """
    origin = read_origin(folder)
    over_8_bits = origin is not None and origin.quantize == "int8"
    if over_8_bits and read_config(folder).get("use_dora") and not torch.cuda.is_available():
        return (
            f"PEFT {peft.__version__} cannot run DoRA over 8 bits on a CPU: its second forward ends "
            "with an error inside bitsandbytes. `doratune.load_adapter` can, and so can PEFT on a GPU."
        )
    return None


def load_in_stock_peft(base_path: Path, folder: Path, dtype: str) -> PeftModel:
    """Base and adapter in eval mode, the base quantised if it was so in training."""
    origin = read_origin(folder)
    base = load_base(base_path, dtype, origin.quantize if origin else None)
    # On CPUs bitsandbytes repacks 4-bit weights in the first forward, and PEFT then reads them wrongly.
    forbid_repacking(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT warns of shows in the figures
        return PeftModel.from_pretrained(base, str(folder)).eval()

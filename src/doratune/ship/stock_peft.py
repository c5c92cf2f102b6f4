"""An adapter folder in PEFT's own layers, as those load it who have no doratune."""

from __future__ import annotations

import warnings
from pathlib import Path

import peft
import torch
from peft import PeftModel

from doratune.adapter.base_weight import forbid_repacking
from doratune.adapter.config import read_config
from doratune.base import load_base
from doratune.ship.merging.onto import quantized_in_training


def on_cpus(folder: Path) -> str | None:
    """What is wrong with an adapter of ours in PEFT's layers on CPUs, for its card; None for nothing.

    PEFT's DoRA reads the base weight in each forward, after bitsandbytes has been at it.
    """
    quantize = quantized_in_training(folder)
    if quantize is None or not read_config(folder).get("use_dora"):
        return None
    instead = "`doratune.load_adapter` is right there, and so is PEFT on a GPU."
    if quantize == "int8":
        # PEFT hands the layer a new parameter, and bitsandbytes takes its scales from there: none.
        return (
            f"On CPUs, PEFT {peft.__version__} cannot run DoRA over 8 bits: its second forward ends "
            f"with an error inside bitsandbytes. {instead}"
        )
    return (
        f"On CPUs with AVX512-BF16, PEFT {peft.__version__} computes another model with DoRA over 4 "
        "bits: bitsandbytes repacks the weights in the first forward, and PEFT then reads them "
        f"wrongly. {instead}"
    )


def why_not(folder: Path) -> str | None:
    """Why PEFT cannot run an adapter here; None where it can."""
    over_8_bits = quantized_in_training(folder) == "int8"
    return on_cpus(folder) if over_8_bits and not torch.cuda.is_available() else None


def load_in_stock_peft(base_path: Path, folder: Path, dtype: str) -> PeftModel:
    """Base and adapter in eval mode, the base quantised if it was so in training.

    bitsandbytes is kept from repacking 4-bit weights: of this, `on_cpus` warns.
    """
    base = load_base(base_path, dtype, quantized_in_training(folder))
    forbid_repacking(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT warns of shows in the figures
        return PeftModel.from_pretrained(base, str(folder)).eval()

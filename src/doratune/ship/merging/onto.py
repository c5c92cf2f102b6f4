"""What an adapter is merged onto that was trained over a quantised base (QLoRA, QDoRA).

Training saw the weights that the base's low-precision numbers stand for, and nothing else. An adapter
merged onto these is the trained model, in 16 or 32 bits (`dequantized`). Merged onto the weights that
the base had before it was quantised (`original`), rows get norms m and directions of another base.
Quantised again (`requantize`), the merged weights are rounded once more, by steps as large as the change
that training made.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from doratune.adapter.base_weight import bnb_4bit, bnb_8bit, forbid_repacking
from doratune.adapter.config import CONFIG
from doratune.adapter.origin import read_origin
from doratune.base import empty_model, load_base, tensor_files
from doratune.errors import ConfigError
from doratune.record.schemas import MEANINGS, Onto
from doratune.ship.merging.checkpoint import Plan, plan_merge

Quantize = Literal["nf4", "int8"]


class QuantizedBase:
    """The weights that a quantised base multiplies with."""

    def __init__(self, base_path: Path, quantize: Quantize) -> None:
        """Quantises the base as for training; all of it is in memory then, in 4 or 8 bits."""
        model: Any = load_base(base_path, "float32", quantize)
        forbid_repacking(model)
        dense, names = empty_model(base_path), tensor_files(base_path)
        self._modules: dict[str, Any] = {}
        self._transposed: set[str] = set()
        for layer, module in model.named_modules():
            if not bnb_4bit.fits(module) and not bnb_8bit.fits(module):
                continue
            # GPT-2's checkpoints leave out the model's own prefix.
            wanted = f"{layer}.weight"
            name = wanted if wanted in names else wanted.partition(".")[2]
            self._modules[name] = module
            if isinstance(dense.get_submodule(layer), Conv1D):
                self._transposed.add(name)

    def __contains__(self, name: str) -> bool:
        """Whether the tensor of that name is held quantised."""
        return name in self._modules

    @torch.no_grad()
    def weight(self, name: str) -> Tensor:
        """A dequantised weight in the checkpoint's layout, float32."""
        module = self._modules[name]
        stored = bnb_4bit if bnb_4bit.fits(module) else bnb_8bit
        W_OI = stored.rows(module, torch.arange(module.out_features)).float().cpu()
        return W_OI.T.contiguous() if name in self._transposed else W_OI

    def plan(self, plan: Plan) -> Plan:
        """A plan of the same merge that takes every quantised weight from here."""

        def weight(name: str) -> Tensor:
            return self.weight(name) if name in self else plan.stored(name)

        changed = plan.deltas.keys() | plan.saved.keys()
        return plan._replace(base_weight=weight, made=frozenset(self._modules) - changed)


def quantized_in_training(adapter_path: Path) -> Quantize | None:
    """How the base of an adapter was quantised, by the record that came with it."""
    if not (adapter_path / CONFIG).exists():
        return None
    origin = read_origin(adapter_path)
    return origin.quantize if origin else None


def check_onto(adapter_path: Path, onto: Onto | None) -> Quantize | None:
    """Makes sure that a choice is made where there is one, and only there.

    Returns:
        How the base was quantised in training.

    Raises:
        ConfigError: The base was quantised and nothing is chosen, or the other way round.
    """
    quantize = quantized_in_training(adapter_path)
    if quantize and onto is None:
        raise ConfigError(
            f"{adapter_path} was trained over a base in {bits(quantize)} ({quantize}), and merge.onto "
            "does not say what it is merged onto. Choose there, or with `doratune merge --onto`: "
            f"{MEANINGS}. `doratune verify` then measures all three."
        )
    if onto and not quantize:
        raise ConfigError(
            f"merge.onto is {onto!r}, but the base of {adapter_path} was not quantised in training, so "
            "there is only one to merge onto. Remove it."
        )
    return quantize


def bits(quantize: Quantize) -> str:
    """In words."""
    return {"nf4": "4 bits", "int8": "8 bits"}[quantize]


def plan_onto(base_path: Path, adapter_path: Path, onto: Onto | None) -> Plan:
    """`plan_merge` with the base weights that were chosen.

    Raises:
        ConfigError: As in `check_onto`.
        AdapterError: As in `plan_merge`.
        ModelError: As in `plan_merge`.
    """
    quantize = check_onto(adapter_path, onto)
    plan = plan_merge(base_path, adapter_path)
    if quantize is None or onto == "original":
        return plan
    return QuantizedBase(base_path, quantize).plan(plan)


def is_weights(file: Path) -> bool:
    """Whether a file of a checkpoint holds weights, or says where they are."""
    return file.suffix == ".safetensors" or file.name.endswith(".index.json")


def requantize(dense: Path, folder: Path, quantize: Quantize) -> int:
    """Quantises a merged checkpoint into an existing folder, with all that lies beside its weights.

    Returns:
        Size of the weights.
    """
    load_base(dense, quantize=quantize).save_pretrained(folder)
    for file in dense.iterdir():
        if not (folder / file.name).exists() and not is_weights(file):
            shutil.copyfile(file, folder / file.name)
    size = 0
    for file in set(tensor_files(folder).values()):
        # safetensors writes for the owner only.
        shutil.copymode(folder / "config.json", file)
        size += file.stat().st_size
    return size

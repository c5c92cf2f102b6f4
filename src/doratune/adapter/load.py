"""Adapters put back onto their base."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor

from doratune.adapter.base_weight import base_weight, why_no_base_weight
from doratune.adapter.config import CONFIG
from doratune.adapter.enable import FastDoraVariant, enable_fast_dora
from doratune.adapter.files import (
    MAGNITUDE,
    PREFIX,
    WEIGHTS,
    AdapterWeights,
    read_tensors,
)
from doratune.adapter.fit import fit_problems, fit_to_model
from doratune.adapter.origin import check_name, check_origin, read_origin
from doratune.adapter.place import copy_problems, place_problems
from doratune.adapter.read import read_adapter
from doratune.errors import AdapterError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_adapter(
    base_model: PreTrainedModel, path: Path, *, trainable: bool = False, any_base: bool = False
) -> PeftModel:
    """Puts a LoRA or DoRA adapter folder onto a base model, on the fast layers.

    What is in the model afterwards is what is in the folder, all of it and bit for bit; else an error
    says what is wrong, and the base model is as it was.

    Args:
        base_model: The model the adapter was trained on; it is changed in place.
        path: Folder in PEFT's format.
        trainable: Whether the adapter is to be trained further.
        any_base: Also put it on a base it was not trained on, as long as names and shapes fit.

    Raises:
        AdapterError: The folder is no complete adapter, does not fit the model, or was trained on
            another base or changed since.
    """
    path = Path(path)
    weights = read_adapter(path, base_model)
    proven = any_base or check_origin(path, _folder_of(base_model))
    if not any_base:
        _check_precision(base_model, path)
        check_name(weights, base_model.name_or_path or "", path)
    for problem in place_problems(base_model, weights):
        raise AdapterError(f"{path}, {problem}")
    if not any_base:
        state = base_model.state_dict()
        for problem in copy_problems(weights, lambda layer: state.get(f"{layer}.weight")):
            raise AdapterError(f"{path}, {problem}")
    before = _Before(base_model, weights)
    try:
        model = _put_on(base_model, path, trainable)
        _check_loaded(model, path)
        enable_fast_dora(model)
        if not proven:
            base = base_model.name_or_path or f"this {type(base_model).__name__}"
            for problem in fit_problems(fit_to_model(weights, _norms(model)), base):
                raise AdapterError(f"{path}: {problem}")
    except AdapterError:
        before.restore()
        raise
    return model if trainable else model.eval()


class _Before:
    """What PEFT changes in a base model, and how it was."""

    def __init__(self, model: PreTrainedModel, weights: AdapterWeights) -> None:
        self.model = model
        self.flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        state = model.state_dict()
        replaced = weights.saved_modules.keys() & state.keys()
        self.tensors = [(state[name], state[name].clone()) for name in replaced]

    @torch.no_grad()
    def restore(self) -> None:
        """Takes the adapter off, however far PEFT came."""
        for name, module in list(self.model.named_modules()):
            original = getattr(module, "original_module", None)
            if name.endswith(".base_layer"):
                continue  # a module that PEFT wrapped more than once comes back with the outermost
            if isinstance(module, LoraLayer):
                original = module.get_base_layer()
            elif not isinstance(module, AuxiliaryTrainingWrapper):
                continue
            parent, _, last = name.rpartition(".")
            setattr(self.model.get_submodule(parent), last, original)
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        for parameter, flag in self.flags:
            parameter.requires_grad_(flag)
        for tensor, copy in self.tensors:
            tensor.copy_(copy)


def _folder_of(base_model: PreTrainedModel) -> Path | None:
    """The checkpoint that a model was loaded from, where that is a folder here."""
    name = base_model.name_or_path
    return Path(name) if name and (Path(name) / "config.json").is_file() else None


def _check_precision(base_model: PreTrainedModel, path: Path) -> None:
    origin = read_origin(path)
    if origin is None:
        return
    found = "nf4" if getattr(base_model, "is_loaded_in_4bit", False) else None
    if getattr(base_model, "is_loaded_in_8bit", False):
        found = "int8"
    if found != origin.quantize:
        raise AdapterError(
            f"{path} was trained over a base in {_precision(origin.quantize)}, and this one is in "
            f"{_precision(found)}: its weights and their norms are others. Load the base as in "
            "training, or with any_base=True if the difference is meant."
        )


def _precision(quantize: str | None) -> str:
    names = {"nf4": "4 bits (NF4)", "int8": "8 bits", None: "its own precision"}
    return names[quantize]


def _put_on(base_model: PreTrainedModel, path: Path, trainable: bool) -> PeftModel:
    with warnings.catch_warnings():
        # PEFT warns of what is checked here, and of nothing that concerns the user.
        warnings.simplefilter("ignore")
        try:
            return PeftModel.from_pretrained(base_model, str(path), is_trainable=trainable)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise AdapterError(
                f"{path} cannot be put onto this {type(base_model).__name__} by PEFT: {error}"
            ) from error


def _check_loaded(model: PeftModel, path: Path) -> None:
    """Compares the model with the file: PEFT drops what it has no place for, and fills what lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    state = model.state_dict()
    missing = set(wanted)
    for key, tensor in read_tensors(path / WEIGHTS).items():
        name = key.removesuffix(".weight") if key.endswith(f"{MAGNITUDE}.weight") else key
        missing.discard(name)
        held = wanted.get(name, state.get(name))
        if held is None:
            raise AdapterError(
                f"{path / WEIGHTS} holds {key}, for which this {type(model.get_base_model()).__name__} "
                "has no place, so that PEFT would drop it. It was trained on another base model, or "
                "config and weights are not of one training."
            )
        if held.shape != tensor.shape or not torch.equal(held.cpu(), tensor.to(held.dtype)):
            raise AdapterError(
                f"{path / WEIGHTS} holds {key} with shape {tuple(tensor.shape)}, which did not "
                f"arrive in the model (there it has {tuple(held.shape)}). Please report this."
            )
    if missing:
        layers = sorted({key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in missing})
        raise AdapterError(
            f"{path / WEIGHTS} lacks {len(missing)} tensors that {CONFIG} asks for, the first of them "
            f"{min(missing)} (layer {layers[0]}): PEFT would leave them as they start. The file is "
            "not complete, or it was trained on another base model."
        )


def _norms(model: PeftModel) -> Callable[[str], Tensor | None]:
    """The norms of a layer's base weight as the fast layers use them."""
    modules = dict(model.named_modules())

    def norm_of(layer: str) -> Tensor | None:
        module = modules.get(f"{PREFIX}{layer}")
        if not isinstance(module, LoraLayer):
            return None
        variant = module.lora_variant.get("default")
        if isinstance(variant, FastDoraVariant):
            return variant.norm.base(module).norm_squared_O.sqrt()
        base = module.get_base_layer()
        return None if why_no_base_weight(base) else base_weight(base).norm_squared_O.sqrt()

    return norm_of

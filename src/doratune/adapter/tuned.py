"""The fine-tuned model of a run, on its own base and on no other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from doratune.adapter.config import CONFIG
from doratune.adapter.files import AdapterWeights
from doratune.adapter.fit import fit_problems, fit_to_folder
from doratune.adapter.load import load_adapter
from doratune.adapter.origin import check_name, check_origin, read_origin
from doratune.adapter.place import place_problems, skeleton
from doratune.adapter.read import read_adapter
from doratune.base import load_base, tensor_files
from doratune.errors import AdapterError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_tuned(
    base_path: Path, adapter_path: Path, dtype: str = "auto"
) -> PreTrainedModel | PeftModel:
    """The fine-tuned model of a run: base and adapter, or the whole model of a full fine-tuning.

    Args:
        base_path: Folder of the base model, which is quantised if it was so in training.
        adapter_path: Folder that training wrote.
        dtype: Precision of the base weights, or of the whole model.

    Returns:
        The model in eval mode.

    Raises:
        AdapterError: The adapter is incomplete or was trained on another base.
    """
    if not (adapter_path / CONFIG).exists():
        check_base(base_path, adapter_path)
        return load_base(adapter_path, dtype)
    origin = read_origin(adapter_path)
    base = load_base(base_path, dtype, origin.quantize if origin else None)
    return load_adapter(base, adapter_path)


def check_base(base_path: Path, adapter_path: Path) -> None:
    """Makes sure that an adapter, or a fully fine-tuned model, was trained on this base.

    Where ``doratune.json`` came with it, the base's fingerprint decides, and the adapter's files must
    be as they were. Without it, magnitudes are compared with the norms of the base's weights, and LoRA
    adapters by the name of their base.

    Raises:
        AdapterError: It was trained on another base, or has been changed since.
    """
    if check_origin(adapter_path, base_path) or not (adapter_path / CONFIG).exists():
        return
    weights = read_adapter(adapter_path, base_path)
    check_foreign(weights, base_path, adapter_path)


def check_foreign(weights: AdapterWeights, base_path: Path, adapter_path: Path) -> None:
    """Makes sure that an adapter without record belongs to a base.

    Raises:
        AdapterError: It does not.
    """
    check_name(weights, str(base_path), adapter_path)
    model = skeleton(base_path)
    stored = tensor_files(base_path)
    for problem in () if model is None else place_problems(model, weights, stored):
        raise AdapterError(f"{adapter_path}, {problem}")
    for problem in fit_problems(fit_to_folder(weights, base_path), str(base_path)):
        raise AdapterError(f"{adapter_path}: {problem}")

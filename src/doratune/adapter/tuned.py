"""The fine-tuned model of a run, on its own base and on no other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from doratune.adapter.load import load_adapter
from doratune.base import fingerprint, load_base
from doratune.errors import AdapterError
from doratune.record.schemas import ORIGIN, AdapterOrigin

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_tuned(
    base_path: Path, adapter_path: Path, dtype: str = "auto"
) -> PreTrainedModel | PeftModel:
    """The fine-tuned model of a run: base and adapter, or the whole model of a full fine-tuning.

    Args:
        base_path: Folder of the base model.
        adapter_path: Folder that training wrote.
        dtype: Precision of the base weights, or of the whole model.

    Returns:
        The model in eval mode.

    Raises:
        AdapterError: The adapter is incomplete or was trained on another base.
    """
    check_base(base_path, adapter_path)
    if not (adapter_path / "adapter_config.json").exists():
        return load_base(adapter_path, dtype)
    return load_adapter(load_base(base_path, dtype), adapter_path)


def check_base(base_path: Path, adapter_path: Path) -> None:
    """Compares the base's fingerprint with the one the adapter was trained on.

    Raises:
        AdapterError: They differ. Adapters made elsewhere carry no fingerprint and pass.
    """
    file = adapter_path / ORIGIN
    if not file.exists():
        return
    origin = AdapterOrigin.read(file)
    found = fingerprint(base_path)
    if origin.base_fingerprint != found:
        raise AdapterError(
            f"{adapter_path} was trained on {origin.base_source} with fingerprint "
            f"{origin.base_fingerprint[:16]}, but {base_path} has {found[:16]}. An adapter works on "
            "its own base only; give that one as model.source."
        )

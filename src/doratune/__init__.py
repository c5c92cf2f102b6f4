"""DoRA fine-tuning that costs what LoRA costs, proves its gain, and never loses the magnitude."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doratune.adapter import (
        FastDoraSummary,
        disable_fast_dora,
        enable_fast_dora,
        load_adapter,
    )
    from doratune.ship.verification.compare_models import (
        ModelComparison,
        assert_same_model,
        compare_models,
    )

__version__ = "0.1.0"
__all__ = [
    "FastDoraSummary",
    "ModelComparison",
    "__version__",
    "assert_same_model",
    "compare_models",
    "disable_fast_dora",
    "enable_fast_dora",
    "load_adapter",
]

_COMPARING = ("ModelComparison", "assert_same_model", "compare_models")


def __getattr__(name: str) -> Any:
    # `import doratune` stays light: torch and PEFT are imported at the first use of a name.
    if name in __all__:
        home = "ship.verification.compare_models" if name in _COMPARING else "adapter"
        return getattr(import_module(f"doratune.{home}"), name)
    raise AttributeError(f"module 'doratune' has no attribute {name!r}")

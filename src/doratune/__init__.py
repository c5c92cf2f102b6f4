"""DoRA fine-tuning that costs what LoRA costs, proves its gain, and never loses the magnitude."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doratune.adapter import (
        FastDoraSummary,
        disable_fast_dora,
        enable_fast_dora,
        load_adapter,
    )

__version__ = "0.1.0"
__all__ = [
    "FastDoraSummary",
    "__version__",
    "disable_fast_dora",
    "enable_fast_dora",
    "load_adapter",
]


def __getattr__(name: str) -> Any:
    # `import doratune` stays light: torch and PEFT are imported at the first use of a name.
    if name in __all__:
        from doratune import adapter

        return getattr(adapter, name)
    raise AttributeError(f"module 'doratune' has no attribute {name!r}")

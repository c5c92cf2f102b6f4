"""From base and adapter to a model that can be deployed, and the proof that it is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doratune.ship.stage import merge_adapter, verify_merged

__all__ = ["merge_adapter", "verify_merged"]


def __getattr__(name: str) -> Any:
    # `doratune.compare_models` lives here and needs only the core packages; the stages need more.
    if name in __all__:
        from doratune.ship import stage

        return getattr(stage, name)
    raise AttributeError(f"module 'doratune.ship' has no attribute {name!r}")

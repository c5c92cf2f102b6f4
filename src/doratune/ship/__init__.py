"""From base and adapter to a model that can be deployed, and the proof that it is the same."""

from doratune.ship.stage import merge_adapter, verify_merged

__all__ = ["merge_adapter", "verify_merged"]

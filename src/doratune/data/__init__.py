"""Sources of examples to the three splits of a run, and conversations to tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doratune.data.clauses import clauses
    from doratune.data.render import Rendered, Renderer
    from doratune.data.stage import prepare_data, read_examples

__all__ = ["Rendered", "Renderer", "clauses", "prepare_data", "read_examples"]

_HOMES = {
    "Rendered": "render",
    "Renderer": "render",
    "clauses": "clauses",
    "prepare_data": "stage",
    "read_examples": "stage",
}


def __getattr__(name: str) -> Any:
    # Worker processes import their part of this package, and do without torch, which the stage needs.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"doratune.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'doratune.data' has no attribute {name!r}")

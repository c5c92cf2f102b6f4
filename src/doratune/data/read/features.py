"""What `datasets` notes in an Arrow schema: numbers that stand for class names, texts that are JSON."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jiter
import pyarrow as pa

Decode = Callable[[Any], Any]


def decoders(schema: pa.Schema) -> dict[str, Decode]:
    """For each column that needs it, what turns a stored value into the one that is meant."""
    try:
        noted = jiter.from_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: _decoder(feature) for name, feature in noted.items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}  # another writer's file
    return {name: decode for name, decode in found.items() if decode is not None}


def _decoder(feature: Any) -> Decode | None:
    """The decoder of one feature, or None where the value is what is meant."""
    if not isinstance(feature, dict):
        return None
    kind = feature.get("_type")
    if kind == "ClassLabel":
        return partial(_class_name, list(feature["names"]))
    if kind == "Json":
        return _json
    if kind in ("List", "LargeList", "Sequence"):
        return _each(_decoder(feature["feature"]))
    if isinstance(kind, str):
        return None
    return _fields({key: _decoder(inner) for key, inner in feature.items()})


def _class_name(names: list[str], value: Any) -> Any:
    if not isinstance(value, int):
        return value
    # datasets writes -1 for an example without a class.
    return names[value] if 0 <= value < len(names) else None


def _json(value: Any) -> Any:
    """Raises ValueError for a text that is not JSON."""
    return jiter.from_json(value.encode()) if isinstance(value, str) else value


def _each(item: Decode | None) -> Decode | None:
    if item is None:
        return None
    # A "Sequence" of old may be a struct of lists instead; it is left as it is.
    return lambda value: [item(v) for v in value] if isinstance(value, list) else value


def _fields(inner: dict[str, Decode | None]) -> Decode | None:
    known = {key: decode for key, decode in inner.items() if decode is not None}
    if not known:
        return None

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: known[k](v) if k in known else v for k, v in value.items()}

    return decode

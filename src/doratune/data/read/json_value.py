"""One JSON object, parsed strictly."""

from __future__ import annotations

import math
import re
from typing import Any

import jiter

from doratune.data.read.rows import MAX_RAW, Row, Unreadable, excerpt

_AT = re.compile(r" at line (\d+) column (\d+)$")


def parse_object(data: bytes, place: str) -> Row | Unreadable:
    """The object that the UTF-8 text of one row holds."""
    try:
        value = jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        return _unreadable(data, place, _explain(data, str(error)))
    if type(value) is not dict:
        return _unreadable(data, place, f"expected a JSON object, found {excerpt(data.decode())}")
    return Row(value, place)


def _unreadable(data: bytes, place: str, problem: str) -> Unreadable:
    return Unreadable(place, problem, data[: 4 * MAX_RAW].decode(errors="replace")[:MAX_RAW])


def _explain(data: bytes, message: str) -> str:
    return message

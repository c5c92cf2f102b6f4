"""One JSON object, parsed strictly, and what is wrong with a text that is none."""

from __future__ import annotations

import math
import re
from typing import Any

import jiter

from doratune.data.read.rows import Row, Unreadable, excerpt, unreadable

_AT = re.compile(r" at line (\d+) column (\d+)$")


def parse_object(data: bytes, place: str, start: tuple[int, int] | None = None) -> Row | Unreadable:
    """The object that the text of one row holds.

    Args:
        data: The text, UTF-8 if it is right.
        place: Of the row.
        start: Line and column of the text in its file, where ``place`` does not say the line.
    """
    try:
        value = jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        return unreadable(place, _explain(data, str(error), start), data)
    if type(value) is not dict:
        return unreadable(place, f"expected a JSON object, found {excerpt(data.decode())}", data)
    for item in value.values():
        if type(item) is not str and not _is_finite(item):
            return unreadable(place, "holds a number too large for a float64, such as 1e999", data)
    return Row(value, place)


def _is_finite(value: Any) -> bool:
    """Whether no number in a JSON value has overflowed to infinity. Its depth is at most 200."""
    kind = type(value)
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        return all(map(_is_finite, value.values()))
    return kind is not list or all(map(_is_finite, value))


def _explain(data: bytes, message: str, start: tuple[int, int] | None) -> str:
    """What is wrong, in the user's words and with the place of it.

    Args:
        data: The text that was refused.
        message: The parser's, which ends with line and column within ``data``, both from 1 and the
            column in bytes.
        start: As for `parse_object`.
    """
    try:
        data.decode()
    except UnicodeDecodeError as error:
        at = _where(data, error.start, start)
        return f"not UTF-8: byte 0x{data[error.start]:02x} at {at}; save the file as UTF-8"
    match = _AT.search(message)
    if match is None:
        return f"not JSON: {message}"
    message = message[: match.start()]
    line, column = int(match[1]), int(match[2])
    position = max(0, column - 1)
    if line > 1:
        position += len(b"\n".join(data.split(b"\n", line - 1)[: line - 1])) + 1
    text = data[:position].decode(errors="ignore")
    near = f"{_where(data, position, start)}, near {excerpt(data.decode(), len(text))}"
    if message.startswith("Detected duplicate key "):
        key = message.removeprefix("Detected duplicate key ")
        return f"the key {key} is given twice, the second time before {near}; remove one"
    if message == "recursion limit exceeded":
        return f"nested more than 200 levels deep, at {near}"
    if "hex escape" in message:
        return f"half a surrogate pair, which is no character, before {near}"
    if message in ("expected value", "invalid number") and re.search("NaN|Infinity", near):
        message = "NaN and Infinity are no JSON numbers (use null)"
    return f"not JSON: {message} at {near}"


def _where(data: bytes, position: int, start: tuple[int, int] | None) -> str:
    """A byte's column in characters, and its line where the row's place does not say it."""
    head = data[:position]
    column = len(head[head.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    if start is None:
        return f"column {column:,}"
    ends = head.count(b"\n")
    if not ends:
        column += start[1] - 1
    return f"line {start[0] + ends:,}, column {column:,}"

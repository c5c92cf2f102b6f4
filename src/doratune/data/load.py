"""Files to rows, each with the place it came from."""

from __future__ import annotations

import difflib
import gzip
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from doratune.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")

_SHOWN = 5


class Row(NamedTuple):
    """One row of a source, as it stands there."""

    content: dict[str, Any]
    place: str
    """``file:line``, or ``file[index]`` for a JSON list."""
    group: str | None = None
    """Rows of one group go to one split; without it, rows of one prompt do."""


def load_rows(path: Path) -> list[Row]:
    """Reads all rows of a ``.jsonl`` or ``.json`` file, also with ``.gz``.

    Blank lines of JSON Lines are skipped, and so is a byte-order mark.

    Raises:
        DataError: The file is missing, empty, of another kind, not UTF-8, or broken. The message
            lists the first broken lines and the number of the others.
    """
    if not path.name.endswith(SUFFIXES):
        raise DataError(
            f"The data file {str(path)!r} ends with {path.suffix!r}. Supported are "
            f"{', '.join(SUFFIXES)}: one JSON object a line, or one JSON list of objects."
        )
    data = _read(path)
    if not data.strip():
        raise DataError(f"{path} is empty; at least one example is needed.")
    rows = _json_list(data, path) if ".jsonl" not in path.suffixes else _json_lines(data, path)
    if not rows:
        raise DataError(f"{path} holds an empty list; at least one example is needed.")
    return rows


def refuse(problems: list[str], what: str) -> None:
    """Raises one error for all problems of a source, if there are any.

    Raises:
        DataError: There are; the first five are listed.
    """
    if not problems:
        return
    shown = [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        shown.append(f"  and {len(problems) - _SHOWN:,} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    raise DataError("\n".join([f"{what} has {count}:", *shown]))


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(_missing(path)) from None
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error.strerror}.") from error
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{path} is not a whole gzip file: {error} It may have been cut while it was "
                "copied; fetch it again."
            ) from error
    return data.removeprefix(b"\xef\xbb\xbf")


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return (
            f"There is no data file {str(path)!r}: the folder {str(path.parent)!r} does not exist. "
            "Paths are relative to the current directory."
        )
    files = sorted(p.name for p in path.parent.iterdir() if p.name.endswith(SUFFIXES))
    near = difflib.get_close_matches(path.name, files, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(str(path.with_name(name))) for name in near)}?"
    if not near:
        hint = "Paths are relative to the current directory."
    return f"There is no data file {str(path)!r}. {hint}"


def _json_lines(data: bytes, path: Path) -> list[Row]:
    rows, problems = [], []
    # Only the line feed ends a line: JSON strings may hold other Unicode line separators.
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        value, problem = _parse(line, place, line=None)
        if problem is None and not isinstance(value, dict):
            problem = f"{place}: expected a JSON object, found {_excerpt(line.decode(), 0)}"
        if problem is not None:
            problems.append(problem)
        else:
            rows.append(Row(value, place))
    refuse(problems, str(path))
    return rows


def _json_list(data: bytes, path: Path) -> list[Row]:
    value, problem = _parse(data, str(path), line=1)
    if problem is not None:
        if "Extra data" in problem:
            problem += ". If it holds one object a line, name it .jsonl"
        refuse([problem], str(path))
    if not isinstance(value, list):
        raise DataError(
            f"{path} holds a JSON {type(value).__name__}; expected a list of objects. For one "
            "object a line, name the file .jsonl."
        )
    rows = [Row(item, f"{path}[{index}]") for index, item in enumerate(value)]
    refuse(
        [
            f"{row.place}: expected a JSON object, found {_excerpt(json.dumps(row.content), 0)}"
            for row in rows
            if not isinstance(row.content, dict)
        ],
        str(path),
    )
    return rows


def _parse(data: bytes, place: str, line: int | None) -> tuple[Any, str | None]:
    """A JSON value, or what is wrong with it.

    Args:
        data: UTF-8 text of the value.
        place: Name of the place in messages.
        line: Number of the first line where ``data`` has several, None where ``place`` says it.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        ends = data.count(b"\n", 0, error.start)
        at = place if line is None else f"{place}:{line + ends}"
        column = error.start - data.rfind(b"\n", 0, error.start)
        return None, (
            f"{at}: not UTF-8: byte 0x{data[error.start]:02x} at column {column}; "
            "save the file as UTF-8"
        )
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        at = place if line is None else f"{place}:{error.lineno}"
        return None, (
            f"{at}: not JSON: {error.msg} at column {error.colno}, near {_excerpt(text, error.pos)}"
        )
    except UnicodeEncodeError as error:
        return None, f"{place}: holds half a surrogate pair, U+{ord(error.object[error.start]):04X}"
    except (ValueError, RecursionError) as error:
        return None, f"{place}: not JSON that can be read: {error}"
    return value, None


def _excerpt(text: str, position: int) -> str:
    """The text around a position, short enough for a message."""
    start, stop = max(0, position - 20), position + 20
    return repr(text[start:stop].strip())

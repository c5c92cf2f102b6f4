"""Which format a source is in, by its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from doratune.data.formats import columns
from doratune.data.formats.draft import Format
from doratune.data.read import Row
from doratune.errors import DataError
from doratune.recipe.schema import DataSection


class _Columns(NamedTuple):
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    """Read where they are there, and shown in the reason."""


def detect_format(rows: Sequence[Row], section: DataSection) -> tuple[Format, str]:
    """The format that the recipe names, or else the one that most rows fit, and the reason.

    Args:
        rows: The first rows of a source, at least one.
        section: The recipe's data section.

    Raises:
        DataError: The rows fit no format, or several.
    """
    if section.format != "auto":
        return section.format, f"data.format is {section.format!r}"
    formats = _formats(section)
    fitting: Counter[Format] = Counter()
    first: dict[Format, Row] = {}
    for row in rows:
        names = _fitting(row, formats)
        if len(names) > 1:
            raise DataError(_problem(row, f"fit {' and '.join(names)}", formats))
        for name in names:
            fitting[name] += 1
            first.setdefault(name, row)
    if not fitting:
        raise DataError(_problem(rows[0], "fit no known format", formats))
    (found, most), *others = fitting.most_common(2)
    if others and others[0][1] == most:
        other = others[0][0]
        raise DataError(
            f"{first[found].place} fits {found}, but {first[other].place} fits {other}, and so do "
            f"{most:,} each of the first {len(rows):,} rows. Split them into two files and two "
            "runs, or set data.format."
        )
    row, known = first[found], {*formats[found].needed, *formats[found].optional}
    used = ", ".join(repr(name) for name in row.content if name in known)
    return found, f"columns {used} of {row.place}"


def _formats(section: DataSection) -> dict[Format, _Columns]:
    return {
        "classification": _Columns((section.text_column, section.label_column)),
        "alpaca": _Columns(("instruction", "output"), ("input", "system")),
        "chat": _Columns(("messages",), ("tools",)),
        "sharegpt": _Columns(("conversations",), ("system", "tools")),
        "completion": _Columns(("prompt", "completion"), ("input", "tools")),
        "preference": _Columns(("chosen", "rejected"), ("prompt", "input", "tools")),
        "text": _Columns((section.text_column,)),
    }


def _fitting(row: Row, formats: Mapping[Format, _Columns]) -> list[Format]:
    there = row.content.keys()
    names = [name for name, columns in formats.items() if there >= set(columns.needed)]
    if "text" in names and len(there) > 1:
        # Any other column may be the label, under a name that the recipe does not know yet.
        names.remove("text")
    return names


def _problem(row: Row, problem: str, formats: Mapping[Format, _Columns]) -> str:
    known = "; ".join(f"{name} has {' and '.join(c.needed)}" for name, c in formats.items())
    return (
        f"{row.place}: the columns {columns.names(row)} {problem} ({known} alone). Set "
        "data.format; for classification also data.text_column and data.label_column."
    )

"""The door: what a recipe names as a source, opened."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from doratune.data.clauses import clauses
from doratune.data.read.columnar import read_columnar
from doratune.data.read.delimited import read_delimited
from doratune.data.read.hub import Repository
from doratune.data.read.json_lines import read_json_lines
from doratune.data.read.json_list import read_json_list
from doratune.data.read.rows import Chunk, Made, Row
from doratune.data.read.standard_input import spool
from doratune.data.read.streams import CODECS, DataFile
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
from doratune.record.files import digest_file, digest_json

_KINDS = {
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_BUILTIN = {"builtin:clauses": clauses}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """One source that is there and of a known kind. Nothing of it is in memory."""

    path: str
    """As the recipe has it."""
    kind: str
    """``jsonl``, ``json``, ``csv``, ``tsv``, ``parquet``, ``arrow``, ``hub`` or ``builtin``."""
    weight: float
    _chunks: Callable[[int], Iterator[Chunk]]
    _digest: Callable[[], str]

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Reads the source from its start.

        Args:
            size: Rows in a chunk; there are fewer where rows are large (about 1 MiB, or one row).

        Raises:
            DataError: The source breaks off, cannot be read on, or holds no row. Rows that came
                before are then of no use.
        """
        empty = True
        for chunk in self._chunks(size):
            empty = False
            yield chunk
        if empty:
            raise DataError(f"{self.path} holds no rows; at least one example is needed.")

    def digest(self) -> str:
        """SHA-256 of the file's bytes, or of commit, configuration and split of a hub dataset."""
        return self._digest()


def open_source(section: SourceSection, work: Path) -> Source:
    """Finds a source and sees what kind it is.

    A local path wins over a hub dataset of the same name.

    Args:
        section: What the recipe says of it.
        work: Folder for what has to be on disk to be read, such as standard input.

    Raises:
        DataError: It is missing, empty, not what its name says, or of an unknown kind.
        StorageError: ``work`` cannot be written.
    """
    name, path = section.path, Path(section.path).expanduser()
    if name.startswith("builtin:"):
        _refuse_hub_words(section, "built in")
        return _builtin(section)
    _check_reachable(name, path)
    if path.is_dir() or _is_hub_id(name):
        repository = Repository.find(section)
        return Source(name, "hub", section.weight, repository.chunks, repository.digest)
    _refuse_hub_words(section, "a file")
    file = spool(work) if name == "-" else _file(name, path)
    file.check_start()
    return Source(
        name, file.kind, section.weight, _reader(file, work), partial(digest_file, file.path)
    )


def _reader(file: DataFile, work: Path) -> Callable[[int], Iterator[Chunk]]:
    if file.kind == "jsonl":
        return partial(read_json_lines, file)
    if file.kind == "json":
        return partial(read_json_list, file)
    if file.kind in ("csv", "tsv"):
        return partial(read_delimited, file)
    return partial(read_columnar, file, work)


def _file(name: str, path: Path) -> DataFile:
    """The file and what its name says of it.

    Raises:
        DataError: There is none, or its suffix is unknown.
    """
    if not path.exists():
        raise DataError(_missing(path))
    if not path.is_file():
        raise DataError(f"{name} is neither a file nor a folder; name a file, or pipe it into '-'.")
    kind = _kind(path)
    if kind is None:
        raise DataError(
            f"The data file {name!r} is of no known kind; its name should end with "
            f"{', '.join(_KINDS)}, or with one of these and {' or '.join(CODECS)}."
        )
    return DataFile(name, path, kind, CODECS.get(path.suffix))


def _check_reachable(name: str, path: Path) -> None:
    """Finds out whether it can be known if a path exists.

    Raises:
        DataError: It cannot: a folder is closed to this user, or the name is impossible.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name!r} cannot be looked up: {getattr(error, 'strerror', None) or error}."
        ) from error


def _kind(path: Path) -> str | None:
    plain = path.with_suffix("") if path.suffix in CODECS else path
    return _KINDS.get(plain.suffix)


def _is_hub_id(name: str) -> bool:
    """Whether a name can only be a hub dataset: its like, and not that of a file that is missing."""
    path = Path(name)
    return (
        _HUB_ID.fullmatch(name) is not None
        and not path.exists()
        and not path.parent.exists()
        and _kind(path) is None
        and path.parts[0] != ".."
    )


def _missing(path: Path) -> str:
    text = f"There is no data file {str(path)!r}"
    if not path.parent.is_dir():
        return (
            f"{text}: the folder {str(path.parent)!r} does not exist. Paths are relative to the "
            "current directory; a hub dataset is named as org/name."
        )
    listable = os.access(path.parent, os.R_OK)
    files = sorted(p.name for p in path.parent.iterdir() if _kind(p)) if listable else []
    near = difflib.get_close_matches(path.name, files, n=3, cutoff=0.5)
    if near:
        return f"{text}. Did you mean {' or '.join(repr(str(path.with_name(n))) for n in near)}?"
    return (
        f"{text}. Paths are relative to the current directory; a hub dataset is named as org/name."
    )


def _refuse_hub_words(section: SourceSection, what: str) -> None:
    for key in ("config", "split", "revision"):
        value = getattr(section, key)
        if value != SourceSection.model_fields[key].default:
            raise DataError(
                f"The source {section.path!r} is {what} and has no {key}; {key} {value!r} is for hub "
                "datasets. Remove it."
            )


def _builtin(section: SourceSection) -> Source:
    if section.path not in _BUILTIN:
        raise DataError(f"There is no {section.path!r}. Built in are: {', '.join(_BUILTIN)}.")
    made = _BUILTIN[section.path]()

    def chunks(size: int) -> Iterator[Chunk]:
        rows = [Row(dict(r), f"{section.path}:{n}", r["group"]) for n, r in enumerate(made, 1)]
        for start in range(0, len(rows), size):
            yield Made(rows[start : start + size])

    return Source(section.path, "builtin", section.weight, chunks, lambda: digest_json(made))

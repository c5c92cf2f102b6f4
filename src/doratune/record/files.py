"""Files written whole or not at all, and digests of what is in them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from doratune.errors import StorageError

ORIGIN = "doratune.json"
"""Name of the `AdapterOrigin` in an adapter folder."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it takes the place of ``path``.

    On any exception the temporary file or folder is removed and ``path`` is what it was. What a killed
    process left of an earlier try is removed first.

    Raises:
        StorageError: The disk is full, or the place cannot be written.
    """
    remove_leftovers(path)
    with _replacing(path) as temporary:
        yield temporary


def remove_leftovers(target: Path) -> None:
    """Removes what killed processes left beside ``target``; what living ones write stays.

    A folder is also left to a process that holds a lock on it, which may be one on another machine.
    """
    if not target.parent.is_dir():
        return
    name = re.escape(target.name)
    for path in target.parent.iterdir():
        made = re.fullmatch(rf"\.{name}\.(\d+)(\.steps)?\.tmp", path.name)
        unfinished = made and not _lives(int(made[1])) and not _is_locked(path)
        replaced = target.exists() and re.fullmatch(rf"\.{name}\.\w+\.old", path.name)
        if unfinished or replaced:
            _remove(path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # another process has removed it, or it is not for us
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _remove(temporary)
        yield temporary
        if path.is_dir():
            # A folder cannot be renamed over a folder: the old one steps aside first.
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.rename(aside / path.name)
            temporary.rename(path)
            shutil.rmtree(aside)
        else:
            temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{path} could not be written: {error}. Nothing was left behind."
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    # Without a look for leftovers: the cache may be shared with machines whose processes are not seen.
    with _replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one compact JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Adds lines to a text file and waits until they are on the disk.

    A last line that a kill cut short is taken away first.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two people may review at the same time
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if size and file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(
            f"Nothing could be added to {path}: {error}. What it held is still there."
        ) from error


def link_or_copy(source: Path, target: Path) -> None:
    """Another name for a file, or a copy where there can be no links, in the place of ``target``."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads a file that `write_jsonl` wrote.

    Raises:
        StorageError: The file is missing or a line of it is not JSON.
    """
    try:
        with path.open(encoding="utf-8") as file:
            # Not splitlines(): a JSON string may hold U+2028, which is no end of line here.
            lines = file.read().removesuffix("\n").split("\n")
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    rows: list[dict[str, Any]] = []
    if lines == [""]:
        return rows
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise StorageError(
                f"{path}:{number} is not JSON ({error}). Delete the file and run its stage again."
            ) from error
    return rows


def digest_bytes(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> str:
    """A JSON value as text, the same whatever its key order and white space were."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_json(value: Any) -> str:
    """The SHA-256 of a JSON value, independent of key order and white space."""
    return digest_bytes(canonical_json(value).encode())


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_path(path: Path, but_for: str | None = None) -> str:
    """The SHA-256 of a file, or of all files of a folder with their relative names.

    Args:
        path: File or folder.
        but_for: Relative name of a file that does not count.
    """
    if path.is_file():
        return digest_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    names = [(p.relative_to(path).as_posix(), p) for p in files]
    return digest_json([[name, digest_file(p)] for name, p in names if name != but_for])

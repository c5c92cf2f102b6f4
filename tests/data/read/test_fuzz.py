"""Whatever a file holds, reading ends in rows, in unreadable rows with places, or in a DataError."""

from __future__ import annotations

import faulthandler
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doratune.data.read import Row, Source, Unreadable, open_source
from doratune.errors import DataError
from doratune.recipe.schema import SourceSection
from tests.data.read.mutate import case

MAX_SECONDS = 20
"""Of one file; most take milliseconds, those of 17 MiB about a second on a busy machine."""


def outcome(path: Path) -> str:
    """Reads a file and checks what comes of it.

    Returns:
        ``rows``, ``unreadable`` or ``refused``.
    """
    try:
        source = open_source(SourceSection(path=str(path)), path.parent / "work")
        found = [row for chunk in source.chunks(50) for row in chunk.rows()]
    except DataError as error:
        message = str(error)
        assert str(path) in message
        assert len(message) < 1000
        assert message.endswith((".", "?", "'", '"')), message
        return "refused"
    for row in found:
        assert row.place.startswith(str(path)), row
        assert len(row.place) > len(str(path)), row
        if isinstance(row, Row):
            # What is written to the run folder later.
            json.dumps(row.content, allow_nan=False, ensure_ascii=False).encode()
        else:
            assert row.problem, row
            assert len(row.problem) < 600, row
            assert len(row.raw) <= 1000, row
    check_against_json(path, source, found)
    return "unreadable" if any(isinstance(row, Unreadable) for row in found) else "rows"


def check_against_json(path: Path, source: Source, found: list[Row | Unreadable]) -> None:
    """Compares rows with what the standard library reads, where the file is plain JSON."""
    if path.suffix == ".jsonl":
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert len(found) == sum(1 for line in lines if line and not line.isspace())
        for row in found:
            if isinstance(row, Row):
                assert row.content == json.loads(lines[int(row.place.rpartition(":")[2]) - 1])
    elif path.suffix == ".json":
        whole = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        assert len(found) == len(whole)
        for number, row in enumerate(found):
            if isinstance(row, Row):
                assert row.content == whole[number]


def run(seeds: range, folder: Path) -> dict[str, int]:
    """Reads a damaged file for each seed.

    Returns:
        How many ended how.
    """
    counts: dict[str, int] = {}
    for seed in seeds:
        name, data = case(seed)
        path = folder / name
        path.write_bytes(data)
        started = time.monotonic()
        faulthandler.dump_traceback_later(3 * MAX_SECONDS, exit=True)
        try:
            ended = outcome(path)
        except BaseException as error:
            error.add_note(f"seed {seed}: {name}, {len(data):,} bytes, {data[:200]!r}")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        assert time.monotonic() - started < MAX_SECONDS, f"seed {seed}: {name}"
        counts[ended] = counts.get(ended, 0) + 1
        path.unlink()
    return counts


def test_300_damaged_files(tmp_path: Path) -> None:
    counts = run(range(300), tmp_path)
    assert sum(counts.values()) == 300
    assert min(counts[ended] for ended in ("rows", "unreadable", "refused")) > 20


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 11_000, 500))
def test_10_000_damaged_files(tmp_path: Path, start: int) -> None:
    """In processes of their own, so that a crash of a C library is a failure of one test."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.read.test_fuzz", str(start), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout).values()) == 500


def test_a_line_of_100_mb_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"a": 1}\n{"a": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n')
    assert path.stat().st_size < 1_000_000
    started = time.monotonic()
    with pytest.raises(DataError, match=r"gz:2: the line that starts here is larger than 16 MiB"):
        list(open_source(SourceSection(path=str(path)), tmp_path).chunks(100))
    assert time.monotonic() - started < MAX_SECONDS


if __name__ == "__main__":
    first = int(sys.argv[1])
    print(json.dumps(run(range(first, first + 500), Path(sys.argv[2]))))

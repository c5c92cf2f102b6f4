"""Memory does not grow with a source."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from doratune.data.read import open_source
from doratune.recipe.schema import SourceSection

MIB = 1 << 20

# Reads a source and prints its rows and how much more memory it took than before, in MiB.
SCRIPT = """
import sys
from pathlib import Path
import psutil
from doratune.data.read import open_source
from doratune.recipe.schema import SourceSection
path = Path(sys.argv[1])
process, num_rows, peak = psutil.Process(), 0, 0
before = process.memory_info().rss
for chunk in open_source(SourceSection(path=str(path)), path.parent).chunks(2000):
    num_rows += len(chunk.rows())
    peak = max(peak, process.memory_info().rss)
print(num_rows, (peak - before) >> 20)
"""


def make(path: Path, num_rows: int) -> None:
    """Writes rows of 600 random characters each."""
    table = pa.table({"text": list(texts(0)), "label": ["x"] * 1000})
    name = path.name.removesuffix(".gz")
    if name.endswith(("parquet", "arrow")):
        with (
            pq.ParquetWriter(path, table.schema)
            if name.endswith("parquet")
            else pa.ipc.new_stream(str(path), table.schema) as writer
        ):
            for seed in range(num_rows // 1000):
                writer.write_table(pa.table({"text": list(texts(seed)), "label": ["x"] * 1000}))
        return
    before, between, after = {
        "a.jsonl": ("", "\n", "\n"),
        "a.json": ("[", ",\n", "]"),
        "a.csv": ("text,label\n", "\n", "\n"),
    }[name]
    with pa.output_stream(str(path), compression="detect") as file:
        file.write(before.encode())
        for seed in range(num_rows // 1000):
            rows = [{"text": text, "label": "x"} for text in texts(seed)]
            lines = [f'"{r["text"]}",x' if name == "a.csv" else json.dumps(r) for r in rows]
            file.write(((between if seed else "") + between.join(lines)).encode())
        file.write(after.encode())


def texts(seed: int) -> Iterator[str]:
    return (f"{seed} {text}" for text in random_texts())


@cache
def random_texts() -> list[str]:
    draw = random.Random(0)
    return [f"{draw.getrandbits(2400):x}" for _ in range(1000)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_reading_17_mib_takes_12(tmp_path: Path, name: str) -> None:
    make(tmp_path / name, 30_000)
    assert (tmp_path / name).stat().st_size > 17 * MIB
    source = open_source(SourceSection(path=str(tmp_path / name)), tmp_path)
    tracemalloc.start()
    num_rows = sum(len(chunk.rows()) for chunk in source.chunks(2000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_rows == 30_000
    assert peak < 12 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.parquet", "a.arrow"])
def test_reading_300_mb_takes_64_mib(tmp_path: Path, name: str) -> None:
    """Resident memory of a process, that of Arrow included."""
    make(tmp_path / name, 500_000)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / name)],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    num_rows, growth = map(int, done.stdout.split())
    assert num_rows == 500_000
    assert growth < 64

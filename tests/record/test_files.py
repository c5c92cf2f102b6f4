from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from doratune.record.files import remove_leftovers, replacing, write_text

WRITE = """
import sys, time
from pathlib import Path
from doratune.record.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    if sys.argv[2] == "folder":
        temporary.mkdir()
        (temporary / "half").write_text("half")
    else:
        temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(target), kind], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    alive = tmp_path / f".target.{process.pid}.tmp"
    with replacing(target) as temporary:
        temporary.write_text("whole")
    assert {*tmp_path.iterdir()} == {target, alive}  # it lives, and goes on
    process.kill()
    process.wait()
    assert {*tmp_path.iterdir()} == {target, alive}
    with replacing(target) as temporary:
        temporary.write_text("whole again")
    assert {*tmp_path.iterdir()} == {target}


def test_what_is_not_left_over_stays(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    alive = tmp_path / f".merged.{os.getppid()}.tmp"
    others = [alive, tmp_path / ".merged.more.999999999.tmp", tmp_path / ".merged.txt"]
    gone = [tmp_path / ".merged.999999999.tmp", tmp_path / ".merged.999999999.steps.tmp"]
    aside = tmp_path / ".merged.ab_12.old"
    for path in [*others, *gone, aside]:
        path.mkdir()
    remove_leftovers(target)
    assert {*tmp_path.iterdir()} == {*others, aside}  # what it held may be the only one
    target.mkdir()
    remove_leftovers(target)
    assert {*tmp_path.iterdir()} == {*others, target}
    remove_leftovers(tmp_path / "nowhere" / "merged")


def test_small_files_are_written_beside_those_of_processes_that_are_not_seen(
    tmp_path: Path,
) -> None:
    """The cache of fingerprints may lie on a disk that other machines write to at the same time."""
    elsewhere = tmp_path / ".fingerprints.json.999999999.tmp"
    elsewhere.write_text("half")
    write_text(tmp_path / "fingerprints.json", "{}")
    assert elsewhere.exists()

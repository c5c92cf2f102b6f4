from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doratune.record.files import remove_leftovers
from doratune.ship.merging.merge import merge
from doratune.ship.merging.model_folder import new_folder, steps_folder

HANG = """
import sys, time
from pathlib import Path
from doratune.ship.merging.model_folder import new_folder, steps_folder
with {kind} as folder:
    (folder / "model.safetensors").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start(kind: str) -> subprocess.Popen[str]:
    """A process that is writing a model and does not come to an end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANG.format(kind=kind)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["new_folder", "steps_folder"])
def test_what_a_killed_process_left_is_removed_by_the_next(
    base: Path, adapter: Path, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "merged"
    size = ", 1" if kind == "new_folder" else ""
    process = start(f"{kind}(Path({str(target)!r}){size})")
    remove_leftovers(target)
    assert len(list(tmp_path.iterdir())) == 1  # it lives, and goes on
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    merge(base, adapter, target, "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    assert (target / "model.safetensors").stat().st_size > 1000


@pytest.mark.slow
def test_a_killed_merge_leaves_nothing_or_the_whole_folder(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    """Killed at several moments, between which the folder of before stays what it was."""
    target = tmp_path / "merged"
    merge(base, adapter, target, "float32")
    whole = (target / "model.safetensors").read_bytes()
    code = (
        "import sys; from pathlib import Path; from doratune.ship.merging.merge import merge\n"
        "print('ready', flush=True)\n"
        f"while True: merge(*map(Path, {[str(base), str(adapter), str(target)]!r}), 'float32')\n"
    )
    for delay in (0.05, 0.15, 0.3):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.kill()
        process.wait()
        if target.exists():
            assert (target / "model.safetensors").read_bytes() == whole
            assert (target / "tokenizer.json").exists()
    merge(base, adapter, target, "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(kind: str) -> None:
        with new_folder(tmp_path / "m", 1) if kind == "new" else steps_folder(tmp_path / "m") as f:
            (f / "file").write_text("half")
            raise KeyboardInterrupt

    for kind in ("new", "steps"):
        with pytest.raises(KeyboardInterrupt):
            fail(kind)
        assert list(tmp_path.iterdir()) == []

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of doratune's own, which does not exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DORATUNE_CACHE", str(folder))
    return folder


@pytest.fixture
def base_copy(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint, to be damaged; as if written a minute ago."""
    folder = shutil.copytree(tiny_base, tmp_path / "copy")
    minute_ago = time.time() - 60
    os.utime(folder / "model.safetensors", (minute_ago, minute_ago))
    return folder

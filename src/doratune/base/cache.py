"""Where doratune keeps what it need not compute twice."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$DORATUNE_CACHE``, or ``~/.cache/doratune``. It may not exist yet."""
    chosen = os.environ.get("DORATUNE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "doratune"

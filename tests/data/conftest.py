from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.preparing import Prepared


@pytest.fixture
def prepare(tmp_path: Path, tiny_base: Path) -> Prepared:
    """Prepares data in a run folder of its own."""
    return Prepared(tmp_path, tiny_base)

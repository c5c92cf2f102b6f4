from __future__ import annotations

from pathlib import Path

import pytest

from tests.ship.adapters import save_adapter
from tests.tiny import save_tiny


@pytest.fixture(autouse=True)
def own_cache(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fingerprints of test models stay out of the user's cache, where slow tests find SmolLM2."""
    if "slow" not in request.keywords:
        monkeypatch.setenv("DORATUNE_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny float32 base with a licence; read only."""
    path = save_tiny(tmp_path_factory.mktemp("ship") / "base")
    (path / "LICENSE").write_text("Apache-2.0\n")
    return path


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DoRA adapter for it; read only."""
    return save_adapter(base, tmp_path_factory.mktemp("ship") / "adapter")

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fingerprints of test models stay out of the user's cache."""
    monkeypatch.setenv("DORATUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

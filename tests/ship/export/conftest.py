from __future__ import annotations

from pathlib import Path

import pytest

from doratune.record.run_folder import RunFolder
from doratune.ship.export.in_llama import VARIABLE, interpreter
from tests.ship.export.runs import sealed_adapter, trained_run


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DoRA adapter with the record of its files; read only."""
    return sealed_adapter(base, tmp_path_factory.mktemp("export") / "adapter")


@pytest.fixture
def run(adapter: Path, tmp_path: Path) -> RunFolder:
    return trained_run(tmp_path / "run", adapter)


@pytest.fixture
def llama() -> str:
    """An interpreter that has llama-cpp-python."""
    python = interpreter()
    if python is None:
        pytest.skip(f"no llama-cpp-python here, and {VARIABLE} names no interpreter that has it")
    return python


@pytest.fixture
def no_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed, forms are exported without llama.cpp."""
    for user in ("gguf", "inputs"):
        monkeypatch.setattr(f"doratune.ship.export.{user}.interpreter", lambda: None)

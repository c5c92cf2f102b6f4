from __future__ import annotations

from pathlib import Path

import pytest

from doratune.record.run_folder import RunFolder
from doratune.report import render
from tests.report.sample_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A complete run, whose files a test may change."""
    return write_run(tmp_path / "clauses-dora", num_layers=2)


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a complete run of 210 layers, with ordinary spaces."""
    run = write_run(tmp_path_factory.mktemp("report") / "clauses-dora")
    return render(run).replace("\N{NO-BREAK SPACE}", " ")

"""Whatever a file holds, the data stage ends in a whole run folder or in an error that leaves none."""

from __future__ import annotations

from pathlib import Path

import pytest

from doratune.data import prepare_data
from doratune.errors import DataError
from doratune.recipe.schema import Recipe
from doratune.record.files import digest_path
from doratune.record.run_folder import RunFolder
from doratune.record.schemas import DataFile, RecordFile
from tests.data.read.mutate import case

BESIDES = {".lock", ".work", "data", "record.json"}
"""What may stand in a run folder whose data stage has failed."""


def outcome(seed: int, base: Path, folder: Path) -> str:
    """Prepares the damaged file of a seed.

    Returns:
        ``prepared`` or ``refused``.
    """
    name, data = case(seed)
    (folder / name).write_bytes(data)
    gates = {"structure": {"action": ("drop", "fail")[seed % 2]}}
    recipe = Recipe.model_validate(
        {
            "name": "run",
            "model": {"source": str(base)},
            "data": {
                "source": str(folder / name),
                "format": ("auto", "classification", "chat", "text")[seed // 2 % 4],
                "gates": gates,
                "on_too_long": "drop",
                "validation_share": 0.0,
                "test_share": 0.0,
            },
        }
    )
    run = RunFolder(folder / "run")
    RecordFile(name="run", recipe_digest="", seed=0).write(run.record)
    try:
        prepare_data(run, recipe, num_workers=1)
    except DataError as error:
        message = str(error)
        assert len(message) < 4000
        assert "Traceback" not in message
        left = {path.name for path in run.path.iterdir()} | {
            path.name for path in (run.path / "data").glob("*")
        }
        assert left <= BESIDES, left
        assert RecordFile.read(run.record).stages == {}
        return "refused"
    file = DataFile.read(run.data)
    assert sum(summary.num_examples for summary in file.splits.values()) > 0
    for path, digest in RecordFile.read(run.record).stages["data"].outputs.items():
        assert digest_path(run.path / path) == digest
    return "prepared"


def check(seeds: range, base: Path, folder: Path) -> None:
    ended = []
    for seed in seeds:
        try:
            (folder / str(seed)).mkdir()
            ended.append(outcome(seed, base, folder / str(seed)))
        except BaseException as error:
            error.add_note(f"seed {seed}: {case(seed)[0]}")
            raise
    assert len(ended) == len(seeds)
    assert {"prepared", "refused"} <= set(ended)


def test_the_stage_on_30_damaged_files(tiny_base: Path, tmp_path: Path) -> None:
    check(range(20_000, 20_030), tiny_base, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(21_000, 21_400, 100))
def test_the_stage_on_400_damaged_files(tiny_base: Path, tmp_path: Path, start: int) -> None:
    check(range(start, start + 100), tiny_base, tmp_path)

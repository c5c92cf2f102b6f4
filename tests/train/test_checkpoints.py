from __future__ import annotations

from pathlib import Path

from doratune.train.checkpoints import resumable_checkpoint

INPUTS = {"base": "b", "data": "d"}


def add_checkpoint(folder: Path, step: int, state: str | None = "{}") -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    if state is not None:
        (checkpoint / "trainer_state.json").write_text(state)
    return checkpoint


def test_nothing_to_resume(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert resumable_checkpoint(folder, INPUTS) is None
    assert (folder / "inputs.json").exists()


def test_newest_complete_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    resumable_checkpoint(folder, INPUTS)
    add_checkpoint(folder, 9)
    wanted = add_checkpoint(folder, 10)
    cut_short = add_checkpoint(folder, 100, state='{"global_step": 1')
    unfinished = add_checkpoint(folder, 101, state=None)
    assert resumable_checkpoint(folder, INPUTS) == wanted
    assert not cut_short.exists()
    assert not unfinished.exists()


def test_checkpoints_of_other_inputs_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    resumable_checkpoint(folder, INPUTS)
    other = add_checkpoint(folder, 10)
    assert resumable_checkpoint(folder, {**INPUTS, "data": "changed"}) is None
    assert not other.exists()


def test_a_folder_without_marker_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    stray = add_checkpoint(folder, 10)
    assert resumable_checkpoint(folder, INPUTS) is None
    assert not stray.exists()

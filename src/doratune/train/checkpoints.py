"""Checkpoints of an unfinished training, and when they may be taken up again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from doratune.record.files import digest_json, write_text


def resumable_checkpoint(folder: Path, inputs: dict[str, str]) -> Path | None:
    """The newest complete checkpoint that was made from the same inputs.

    Checkpoints made from other inputs, and those that a kill left incomplete, are removed.

    Args:
        folder: The run's checkpoints; made if missing.
        inputs: Digest of each thing the training depends on.
    """
    marker = folder / "inputs.json"
    digest = digest_json(inputs)
    if folder.exists() and not (marker.exists() and json.loads(marker.read_text()) == digest):
        shutil.rmtree(folder)
    if not folder.exists():
        folder.mkdir(parents=True)
        write_text(marker, json.dumps(digest))
    steps = sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.split("-")[1]))
    for checkpoint in steps:
        if _is_complete(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _is_complete(checkpoint: Path) -> bool:
    """Trainer writes ``trainer_state.json`` last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True

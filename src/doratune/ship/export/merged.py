"""The merged checkpoint with its card, as a folder to pass on."""

from __future__ import annotations

import shutil
from pathlib import Path

from doratune.base import load_base
from doratune.record.files import link_or_copy
from doratune.record.schemas import ORIGIN
from doratune.ship.export.ask import ask_form, task_sentence
from doratune.ship.export.model_card import CARD
from doratune.ship.export.subject import Subject, Written, copy_license


def write_merged(subject: Subject, folder: Path) -> Written:
    """Links the weights of ``merged/``, so that they take no space twice."""
    for file in sorted(subject.run.merged.iterdir()):
        if file.suffix == ".safetensors":
            link_or_copy(file, folder / file.name)
        elif file.name != CARD:
            shutil.copyfile(file, folder / file.name)
    if (subject.run.adapter / ORIGIN).exists():
        shutil.copyfile(subject.run.adapter / ORIGIN, folder / ORIGIN)
    copy_license(subject, folder)
    tasks = ask_form(subject, "the merged model", lambda: load_base(folder))
    return Written({CARD: [*map(task_sentence, tasks)]}, tasks=tasks)

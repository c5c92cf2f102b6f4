"""The adapter folder as stock PEFT loads it, and the folders that are built around it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from doratune.adapter import read_adapter
from doratune.adapter.config import CONFIG
from doratune.adapter.origin import file_digests, read_origin
from doratune.record.export import TaskCost
from doratune.record.files import digest_path, write_text
from doratune.record.schemas import ORIGIN
from doratune.ship.export.ask import ask_form, task_sentence
from doratune.ship.export.model_card import CARD
from doratune.ship.export.subject import Subject, Written, copy_license
from doratune.ship.stock_peft import load_in_stock_peft, on_cpus, why_not


def write_peft(subject: Subject, folder: Path) -> Written:
    """Copies the adapter, after reading it whole, with tokenizer, origin and licence.

    Raises:
        AdapterError: The adapter is incomplete.
    """
    num_layers = len(read_adapter(subject.run.adapter).layers)
    copy_adapter(subject, folder)
    findings = [
        f"It is the trained adapter itself: {num_layers} layers, the files copied byte for byte."
    ]
    caution = on_cpus(folder)
    notes = () if caution is None else (caution,)
    base_path, dtype = subject.base_path, subject.recipe.model.dtype
    tasks: tuple[TaskCost, ...] = ()
    if why_not(folder) is None:
        tasks = ask_form(
            subject, "PEFT's own layers", lambda: load_in_stock_peft(base_path, folder, dtype)
        )
    return Written(
        {CARD: [*findings, *map(task_sentence, tasks), *notes]}, tasks=tasks, notes=notes
    )


def copy_adapter(subject: Subject, folder: Path) -> None:
    """Copies an adapter folder without the card that a trainer may have left, and the licence."""
    for file in sorted(subject.run.adapter.iterdir()):
        if file.is_file() and file.name != CARD and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)
    copy_license(subject, folder)


def change_config(folder: Path, **changes: object) -> None:
    """Changes ``adapter_config.json``."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config.update(changes)
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def renew_origin(subject: Subject, folder: Path, **changes: object) -> None:
    """Brings ``doratune.json`` up to date with a folder whose files are others than in training."""
    origin = read_origin(folder)
    if origin is not None:
        parent = digest_path(subject.run.adapter)
        update = {"files": file_digests(folder), "parents": [parent], **changes}
        origin.model_copy(update=update).write(folder / ORIGIN)
